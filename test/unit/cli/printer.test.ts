import { expect, test, vi } from 'vitest'
import { createPrinter } from '../../../src/cli/printer.ts'

test('a table may have more rows than a call may have arguments', async () => {
  const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
  try {
    const rows = Array.from({ length: 200_000 }, (_, at) => at)
    await createPrinter({ json: false }).table(rows, { number: String, last: () => 'x' }, 'none')
    expect(write).toHaveBeenCalledTimes(200_001)
    expect(write).toHaveBeenLastCalledWith('199999  x\n')
  } finally {
    write.mockRestore()
  }
})
