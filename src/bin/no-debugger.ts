/**
 * On SIGUSR1 Node opens a debugger on port 9229, and every process that reaches the port can read all secrets. A listener
 * for the signal prevents that, however this process was started. Until this line runs only `--disable-sigusr1` helps,
 * which is why the commands have it.
 */
process.on('SIGUSR1', () => undefined)
