"What every other folder leans on: errors, files, processes, plots. It imports nothing of the package."
