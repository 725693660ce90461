"Settings, plans, run folders and the training loop. Imports what lies below: losses, data, the method, base."
