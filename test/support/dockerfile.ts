import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { readText, root } from './docs.ts'

export interface Instruction {
  readonly name: string
  readonly text: string
}

/** The instructions of our Dockerfile, in order; continued lines are joined. */
export function readDockerfile(): Instruction[] {
  return readText('Dockerfile')
    .replace(/^#.*\n/gm, '')
    .replace(/\\\n/g, ' ')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [, name = '', text = ''] = /^(\w+)\s+(.*)$/.exec(line) ?? []
      return { name, text }
    })
}

/** Whether .dockerignore keeps a file of the checkout's root out of the build. The last line that matches decides. */
export function isIgnored(path: string): boolean {
  const top = path.split('/')[0]
  return readText('.dockerignore')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .reduce((ignored, line) => {
      if (line === '*') return true
      if (!/^![\w.-]+$/.test(line)) throw new Error(`.dockerignore: ${line} is more than this understands`)
      return line.slice(1) === top ? false : ignored
    }, false)
}

/** What a container would be: where its root is, and how to run something in it. */
export interface Image {
  /** A path of the image, in the folder that stands for its root. */
  inside(path: string): string
  readonly env: Readonly<Record<string, string>>
  readonly workdir: string
  readonly command: readonly string[]
  readonly healthcheck: readonly string[]
  readonly uid: number
}

/**
 * Does what the Dockerfile says, in a folder instead of a container: there the absolute paths are those of the folder,
 * and what has to be root's work is left out where we are not root.
 */
export function buildImage(folder: string): Image {
  const inside = (path: string) => join(folder, path)
  const inFolder = (text: string) => text.replace(/(?<=^|[ =])\/(?=[a-z])/g, `${folder}/`)
  const isRoot = process.getuid?.() === 0
  const env: Record<string, string> = {}
  let workdir = '/'
  let entrypoint: string[] = []
  let command: string[] = []
  let healthcheck: string[] = []
  let uid = 0
  mkdirSync(inside('/usr/local/bin'), { recursive: true })
  for (const { name, text } of readDockerfile()) {
    if (name === 'WORKDIR') {
      workdir = text
      mkdirSync(inside(workdir), { recursive: true })
    } else if (name === 'ENV') for (const [, key = '', value = ''] of text.matchAll(/(\w+)=(\S+)/g)) env[key] = value
    else if (name === 'COPY') {
      const paths = text.split(/\s+/)
      const target = paths.pop() ?? ''
      for (const path of paths) {
        if (isIgnored(path)) throw new Error(`COPY ${path}: .dockerignore leaves it out`)
        const to = target.endsWith('/') ? join(target, path) : target
        cpSync(join(root, path), join(inside(workdir), to), { recursive: true })
      }
    } else if (name === 'RUN') {
      const script = text
        .replace(/^--mount=\S+ /, '')
        .replaceAll('chown node:node', isRoot ? 'chown 1000:1000' : 'true')
      run(script)
    } else if (name === 'USER') uid = Number(text.split(':')[0])
    else if (name === 'ENTRYPOINT') entrypoint = JSON.parse(text)
    else if (name === 'CMD') command = JSON.parse(text)
    else if (name === 'HEALTHCHECK') healthcheck = JSON.parse(/CMD (\[.*\])$/.exec(text)?.[1] ?? '[]')
    else if (!['FROM', 'VOLUME', 'EXPOSE', 'STOPSIGNAL'].includes(name)) throw new Error(`${name} is not understood`)
  }
  return { inside, env, workdir, command: [...entrypoint, ...command], healthcheck, uid }

  function run(script: string): void {
    execFileSync('sh', ['-ec', inFolder(script)], {
      cwd: inside(workdir),
      stdio: ['ignore', 'ignore', 'inherit'],
      env: {
        ...process.env,
        ...env,
        PATH: `${dirname(process.execPath)}:${process.env['PATH']}`,
        // The tarballs were downloaded when this checkout was installed.
        npm_config_prefer_offline: 'true',
        npm_config_audit: 'false',
        npm_config_fund: 'false',
        npm_config_update_notifier: 'false',
        npm_config_loglevel: 'error',
      },
    })
  }
}
