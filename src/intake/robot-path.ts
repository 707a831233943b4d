import { createHash, timingSafeEqual } from 'node:crypto'

/**
 * The path for the posts of robots, if there is one. The path is the secret that a robot's post has instead of a
 * token.
 */
export interface RobotPath {
  readonly isSet: boolean
  /** Compares in constant time, as for tokens. `path` has no query and no trailing slash. */
  readonly is: (path: string) => boolean
  /** Values that must not reach the journal. */
  readonly values: readonly string[]
}

export function createRobotPath(path: string | undefined): RobotPath {
  if (path === undefined) return { isSet: false, is: () => false, values: [] }
  const hash = (text: string) => createHash('sha256').update(text).digest()
  const ours = hash(path)
  return {
    isSet: true,
    is: (other) => timingSafeEqual(hash(other), ours),
    values: [path, path.slice(path.lastIndexOf('/') + 1)],
  }
}
