/**
 * Node opens a debugger on port 9229 for whoever sends SIGUSR1, and whoever reaches that port reads every secret. A listener
 * takes the signal away from it, however this process was started. Until this line runs only `--disable-sigusr1` helps, which
 * is why our commands have it.
 */
process.on('SIGUSR1', () => undefined)
