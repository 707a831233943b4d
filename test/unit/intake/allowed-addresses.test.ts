import { isIP } from 'node:net'
import { expect, test } from 'vitest'
import { createAllowedAddresses } from '../../../src/intake/allowed-addresses.ts'
import { fc } from '../../support/random.ts'

const numberOf = (address: string) => address.split('.').reduce((number, part) => number * 256 + Number(part), 0)
const hexOf = (address: string) => {
  const number = numberOf(address)
  return `${Math.floor(number / 65536).toString(16)}:${(number % 65536).toString(16)}`
}

test.each<[string, string, boolean]>([
  ['203.0.113.7', '203.0.113.7', true],
  ['203.0.113.7', '203.0.113.8', false],
  ['203.0.113.7', '::ffff:203.0.113.7', true],
  ['203.0.113.7', '::FFFF:cb00:7107', true],
  ['203.0.113.7', '0:0:0:0:0:ffff:203.0.113.7', true],
  ['203.0.113.7', '::203.0.113.7', false],
  ['::ffff:203.0.113.7', '203.0.113.7', true],
  ['::ffff:203.0.113.0/120', '203.0.113.7', true],
  ['203.0.113.0/24', '::ffff:203.0.113.7', true],
  ['203.0.113.0/24', '::ffff:203.0.114.7', false],
  ['203.0.113.7/24', '203.0.113.200', true],
  ['10.0.0.0/9', '10.127.255.255', true],
  ['10.0.0.0/9', '10.128.0.0', false],
  ['2001:db8::1', '2001:DB8:0:0:0::1', true],
  ['2001:db8::1', '2001:db8::2', false],
  ['2001:db8::/33', '2001:db8:7fff::1', true],
  ['2001:db8::/33', '2001:db8:8000::1', false],
  ['2001:db8::/32', '32.1.13.184', false],
])('of %s is %s: %s', (entry, address, expected) => {
  expect(createAllowedAddresses([entry]).has(address)).toBe(expected)
})

test('each entry counts, and an empty list allows no address', () => {
  const allowed = createAllowedAddresses(['198.51.100.1', '203.0.113.0/24', '2001:db8::/32'])
  const addresses = ['198.51.100.1', '203.0.113.9', '2001:db8::9', '198.51.100.2', '2001:db9::']
  expect(addresses.map(allowed.has)).toEqual([true, true, true, false, false])
  expect(addresses.map(createAllowedAddresses([]).has)).toEqual(Array(5).fill(false))
})

test('an IPv4 address is in a CIDR when its first bits are those of the CIDR, however it is written', () => {
  fc.assert(
    fc.property(fc.ipV4(), fc.ipV4(), fc.integer({ min: 1, max: 32 }), (address, other, prefix) => {
      const firstBits = (text: string) => Math.floor(numberOf(text) / 2 ** (32 - prefix))
      const allowed = createAllowedAddresses([`${address}/${prefix}`])
      for (const each of [address, other]) {
        const expected = firstBits(each) === firstBits(address)
        expect(allowed.has(each)).toBe(expected)
        expect(allowed.has(`::ffff:${each}`)).toBe(expected)
        expect(allowed.has(`::ffff:${hexOf(each)}`)).toBe(expected)
      }
    }),
  )
})

test('an address is of a list when it is one of it', () => {
  const addresses = fc.array(fc.oneof(fc.ipV4(), fc.ipV6()), { maxLength: 20 })
  fc.assert(
    fc.property(addresses, fc.ipV4(), (list, stranger) => {
      const allowed = createAllowedAddresses(list)
      expect(list.every(allowed.has)).toBe(true)
      fc.pre(!list.includes(stranger) && list.every((address) => isIP(address) === 4))
      expect(allowed.has(stranger)).toBe(false)
    }),
  )
})

test('whatever a proxy names, it is answered, and what is no address is not allowed', () => {
  const allowed = createAllowedAddresses(['0.0.0.0/1', '128.0.0.0/1', '::/1', '8000::/1'])
  const named = fc.oneof(fc.string(), fc.constantFrom('unknown', '_hidden', '1.2.3.4:5678', '[::1]', '1.2.3', ' ::1'))
  fc.assert(
    fc.property(named, (text) => {
      expect(allowed.has(text)).toBe(isIP(text) !== 0)
    }),
  )
})
