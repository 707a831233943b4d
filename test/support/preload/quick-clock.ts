// Loaded before a process under test (`--import`): in its alerter a minute passes within three seconds.
if (process.argv[1]?.endsWith('bin/alerter.ts')) {
  const realNow = Date.now
  const start = realNow()
  Date.now = () => start + (realNow() - start) * 20
}
