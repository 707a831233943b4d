import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'

/** What a portal shows, and what its clients must trust. */
export interface Certificate {
  readonly key: string
  readonly cert: string
  /** PEM of the authority, for a child's `NODE_EXTRA_CA_CERTS`. */
  readonly caFile: string
}

// Addresses of the loopback network, so that several portals have hosts of their own without a name server.
const names = ['DNS:localhost', ...Array.from({ length: 9 }, (_, index) => `IP:127.0.0.${index + 1}`)]

let made: Certificate | undefined

/** One authority and one certificate per test process, made when first asked for; this process trusts it from then on. */
export function portalCertificate(): Certificate {
  made ??= makeCertificate()
  return made
}

function makeCertificate(): Certificate {
  const dir = mkdtempSync(join(tmpdir(), 'b24-ca-'))
  process.once('exit', () => rmSync(dir, { recursive: true, force: true }))
  const path = (name: string) => join(dir, name)
  writeFileSync(
    path('openssl.cnf'),
    `[req]
prompt = no
distinguished_name = name
[name]
CN = Portals of a test
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
[portal]
basicConstraints = CA:FALSE
subjectAltName = ${names.join(',')}
`,
  )
  const makeOne = (name: string, section: string, ...signer: string[]) =>
    execFileSync(
      'openssl',
      ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2']
        .concat(['-config', path('openssl.cnf'), '-extensions', section])
        .concat(['-keyout', path(`${name}.key`), '-out', path(`${name}.pem`), ...signer]),
      { stdio: 'pipe' },
    )
  makeOne('ca', 'authority')
  makeOne('portal', 'portal', '-CA', path('ca.pem'), '-CAkey', path('ca.key'))
  const read = (name: string) => readFileSync(path(name), 'utf8')
  setDefaultCACertificates([...getCACertificates('default'), read('ca.pem')])
  return { key: read('portal.key'), cert: read('portal.pem'), caFile: path('ca.pem') }
}
