import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** For what a test process keeps until its end, of which it is not told: it goes with the suite. */
export default function makeSuiteFolder(): () => void {
  const folder = mkdtempSync(join(tmpdir(), 'b24-suite-'))
  process.env['B24_SUITE_FOLDER'] = folder
  return () => rmSync(folder, { recursive: true, force: true })
}
