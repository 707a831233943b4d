import type { Ownership } from './errors.ts'
import { bossSchema, SchemaError } from './schema.ts'
import type { Session } from './session.ts'

/**
 * Checks the requirements for a server and database, before anything is created there.
 *
 * @throws {SchemaError} if only another database helps
 */
export async function inspectServer(session: Session): Promise<Ownership> {
  const [facts] = await session.query(
    `SELECT current_setting('server_encoding') AS encoding, current_database() AS database, current_user AS me,
       current_setting('server_version_num')::integer AS version, current_setting('server_version') AS version_name`,
  )
  const encoding = String(facts?.['encoding'])
  // Otherwise an unsupported character, for example in the title of a deal, would one day stop everything behind it.
  if (encoding !== 'UTF8')
    throw new SchemaError(
      `the database "${String(facts?.['database'])}" has the encoding ${encoding}, and Bitrix24's texts need UTF8: make another one (CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0), and set DATABASE_URL to it`,
    )
  if (Number(facts?.['version']) < 150_000)
    throw new SchemaError(`the server is Postgres ${String(facts?.['version_name'])}; 15 or newer is needed`)
  const rows = await session.query(
    `WITH ours AS (SELECT oid, nspname, nspowner FROM pg_namespace WHERE nspname IN ('b24_receiver', $1))
     SELECT DISTINCT nspname AS schema, pg_get_userbyid(owner) AS owner FROM (
       SELECT nspname, nspowner AS owner FROM ours
       UNION SELECT nspname, relowner FROM pg_class JOIN ours ON relnamespace = ours.oid
     ) AS owned WHERE NOT pg_has_role(owner, 'USAGE') ORDER BY schema`,
    [bossSchema],
  )
  return {
    foreign: rows.map(({ schema, owner }) => ({ schema: String(schema), owner: String(owner) })),
    user: String(facts?.['me']),
  }
}
