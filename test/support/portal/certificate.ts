import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
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

let made: { readonly dir: string; readonly certificate: Certificate } | undefined

/** One authority and one certificate per test process, made when first asked for; this process trusts it from then on. */
export function portalCertificate(): Certificate {
  made ??= makeCertificate()
  return made.certificate
}

export interface CertificateOptions {
  readonly from?: Date
  readonly to?: Date
  /** As in `subjectAltName`; those of a portal by default. */
  readonly names?: string
  /** By itself, not by the authority. */
  readonly isSelfSigned?: boolean
}

const day = 86_400_000

/** Another one, of the same authority. */
export function otherCertificate(options: CertificateOptions): Pick<Certificate, 'key' | 'cert'> {
  const { from = new Date(Date.now() - day), to = new Date(Date.now() + day), isSelfSigned = false } = options
  made ??= makeCertificate()
  const dir = mkdtempSync(join(made.dir, 'other-'))
  const path = (name: string) => join(dir, name)
  writeFileSync(path('index'), '')
  writeFileSync(
    path('openssl.cnf'),
    `[ca]
default_ca = authority
[authority]
database = ${path('index')}
new_certs_dir = ${dir}
rand_serial = yes
default_md = sha256
policy = anything
x509_extensions = server
[anything]
commonName = supplied
[server]
basicConstraints = CA:FALSE
subjectAltName = ${options.names ?? names.join(',')}
[req]
prompt = no
distinguished_name = name
[name]
CN = Another server
`,
  )
  const openssl = (...args: string[]) => execFileSync('openssl', args, { stdio: 'pipe' })
  const config = ['-config', path('openssl.cnf')]
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
  openssl('req', '-new', ...curve, ...config, '-keyout', path('key'), '-out', path('request'))
  const signer = isSelfSigned
    ? ['-selfsign', '-keyfile', path('key')]
    : ['-cert', join(made.dir, 'ca.pem'), '-keyfile', join(made.dir, 'ca.key')]
  const dates = ['-startdate', asn1Time(from), '-enddate', asn1Time(to)]
  openssl('ca', '-batch', '-notext', ...config, ...signer, ...dates, '-in', path('request'), '-out', path('cert'))
  return { key: readFileSync(path('key'), 'utf8'), cert: readFileSync(path('cert'), 'utf8') }
}

/** `20261123081120Z` */
function asn1Time(date: Date): string {
  return date.toISOString().replaceAll(/[-:T]|\.\d+/g, '')
}

function makeCertificate(): NonNullable<typeof made> {
  const dir = mkdtempSync(join(tmpdir(), 'b24-ca-'))
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
  return { dir, certificate: { key: read('portal.key'), cert: read('portal.pem'), caFile: path('ca.pem') } }
}
