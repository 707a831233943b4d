import { expect, test } from 'vitest'
import { takeInheritedSocket } from '../../../src/intake/inherited-socket.ts'
import { StartError } from '../../../src/lib/start-error.ts'

test.for([
  ['is there', { LISTEN_FDS: '1', LISTEN_PID: '7', LISTEN_FDNAMES: 'bitrix24-receiver.socket' }, 3],
  ['has no name', { LISTEN_FDS: '1', LISTEN_PID: '7' }, 3],
  ['is not there', {}, undefined],
  ['is set to none', { LISTEN_FDS: '0', LISTEN_PID: '7' }, undefined],
  ['is set to nothing', { LISTEN_FDS: '' }, undefined],
] as const)('a socket that %s is taken as it is, and no variable of it remains', ([, variables, fd]) => {
  const env: NodeJS.ProcessEnv = { ...variables, PORT: '1' }
  expect(takeInheritedSocket(env, 7)).toBe(fd)
  expect(env).toEqual({ PORT: '1' })
})

test.for([
  ['for another process', { LISTEN_FDS: '1', LISTEN_PID: '8' }, 'LISTEN_PID is 8 and this is process 7'],
  ['for nobody', { LISTEN_FDS: '1' }, 'LISTEN_PID is not set and this is process 7'],
  ['several', { LISTEN_FDS: '2', LISTEN_PID: '7' }, 'LISTEN_FDS must be 1, got "2"'],
  ['no number', { LISTEN_FDS: 'x', LISTEN_PID: '7' }, 'LISTEN_FDS must be 1, got "x"'],
] as const)('sockets that are %s are refused with what to do', ([, env, message]) => {
  expect(() => takeInheritedSocket({ ...env }, 7)).toThrow(StartError)
  expect(() => takeInheritedSocket({ ...env }, 7)).toThrow(message)
})
