import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { envOf, runCli, spawnCli } from '../support/cli.ts'
import { readText } from '../support/docs.ts'
import { dealBody, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

/** Says whether its process has a debugger, after it was sent the signal that asks for one. */
const asking = `import { url } from 'node:inspector'
import { setTimeout as sleep } from 'node:timers/promises'
export default async function (event, { log }) {
  process.kill(process.pid, 'SIGUSR1')
  for (let looks = 0; looks < 50 && url() === undefined; looks++) await sleep(10)
  log.info('the debugger: ' + url())
}
`

/** The processes of a receiver, by their script; the receiver itself first. */
function processesOf(pid: number | undefined): Map<string, number> {
  const list = execFileSync('ps', ['-o', 'pid=,args=', '-p', String(pid), '--ppid', String(pid)], { encoding: 'utf8' })
  return new Map(
    list.split('\n').flatMap((line) => {
      const [, id, script] = /^ *(\d+) .*?(src\/\S+\.ts)/.exec(line) ?? []
      return script === undefined ? [] : [[script, Number(id)] as const]
    }),
  )
}

test('SIGUSR1 opens no debugger in receiver or dispatcher, and ends neither', async () => {
  const receiver = await startReceiver({
    handlers: { 'ONCRMDEALUPDATE.mjs': asking },
  })
  const processes = await until('all run', () => {
    const found = processesOf(receiver.child.pid)
    return found.size === 2 ? found : undefined
  })
  expect([...processes.keys()].sort()).toEqual(['src/bin/dispatcher.ts', 'src/bin/receiver.ts'])
  for (const pid of processes.values()) process.kill(pid, 'SIGUSR1')
  await receiver.post(dealBody(1))
  await until('the handler has looked', () => receiver.output().includes('the debugger: '))
  expect(receiver.logged('the debugger: undefined')).toHaveLength(1)
  expect(receiver.output()).not.toContain('Debugger listening')
  expect(processesOf(receiver.child.pid)).toEqual(processes)
})

test('SIGUSR1 opens no debugger in a command, nor in the process in which it tries a handler', async () => {
  const receiver = await startReceiver({ env: { DISPATCHER: 'off' } })
  await receiver.post(dealBody(1))
  const file = join(temporaryFolder('tried'), 'ONCRMDEALUPDATE.mjs')
  writeFileSync(file, asking)
  const tried = await runCli({ env: envOf(receiver) }, 'try', file)
  expect(tried.stdout).toContain('the debugger: undefined')
  expect(tried.stderr).not.toContain('Debugger listening')

  const tail = spawnCli({ env: envOf(receiver) }, 'tail', '-f', '--json')
  await until('it follows', () => tail.said.stdout.includes('deal:1'))
  tail.child.kill('SIGUSR1')
  await receiver.post(dealBody(2))
  await until('it goes on', () => tail.said.stdout.includes('deal:2'))
  tail.child.kill('SIGINT')
  expect(await tail.result).toMatchObject({ code: 0, stderr: '' })
})

test('SIGUSR1 opens none while one starts: every command here passes --disable-sigusr1', () => {
  const { scripts } = JSON.parse(readText('package.json')) as { scripts: Record<string, string> }
  const commands = [
    ...['start', 'dev', 'tail', 'call', 'dispatch'].map((name) => scripts[name]),
    /^CMD .*/m.exec(readText('Dockerfile'))?.[0].replaceAll('", "', ' '),
    /^ExecStart=.*/m.exec(readText('deploy/bitrix24-receiver.service'))?.[0],
    readText('src/bin/cli.ts').split('\n')[0],
  ]
  expect(commands).toHaveLength(8)
  for (const command of commands) expect(command).toContain('--disable-sigusr1')
})
