import { expect, test } from 'vitest'
import { runCli } from '../support/cli.ts'

test('a command that there is not exits with 64, whatever its name', async () => {
  for (const name of ['nothing', 'constructor', '__proto__', '../cli/tail']) {
    const { code, stderr } = await runCli({}, name)
    expect(code).toBe(64)
    expect(stderr).toBe(`b24-receiver: there is no command "${name}"; see b24-receiver --help\n`)
  }
})
