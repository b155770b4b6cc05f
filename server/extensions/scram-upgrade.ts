// XEP-0480: SASL Upgrade Tasks, version 0.2.0 (2024-12-01)
import { randomBytes } from 'node:crypto'
import { SaslFailure } from '../../lib/sasl/mechanism.ts'
import { hashBytes, keysOf, type ScramHash } from '../../lib/sasl/scram-keys.ts'
import { AccountError } from '../accounts/accounts.ts'
import { list, oneOf } from '../config/options.ts'
import { defineExtension, type Task } from './extension.ts'

const NS = 'urn:xmpp:sasl:upgrade:0'
const SCRAM_NS = 'urn:xmpp:scram-upgrade:0'
/** As of new passwords. */
const ITERATIONS = 4096

const HASHES: Readonly<Record<string, ScramHash>> = { sha256: 'SHA-256', sha512: 'SHA-512' }

export interface ScramUpgradeOptions {
  readonly offered_upgrades: readonly ('sha256' | 'sha512')[]
}

/** An account whose password was kept for some hashes alone gets the others, of which the client makes the keys (§4). */
export const scramUpgrade = defineExtension({
  name: 'scram-upgrade',
  ejabberd: 'mod_scram_upgrade',
  specs: [{ xep: 480, version: '0.2.0', status: 'complete' }],
  needs: ['sasl2', 'accounts', 'log'],
  options: {
    offered_upgrades: { type: list(oneOf('sha256', 'sha512')), default: ['sha256', 'sha512'], help: 'Hashes of SCRAM for which an account without them gets keys.' },
  },
  start({ sasl2, accounts, log }, options: ScramUpgradeOptions) {
    const offered = options.offered_upgrades.map((name) => HASHES[name] as ScramHash)

    // §3.1: to the accounts that lack them, for clients should take what is offered every time.
    sasl2.offer(({ claimed }) => {
      const present = claimed === undefined ? undefined : accounts.hashes(claimed)
      if (present === undefined || present instanceof Promise || present.length === 0) return undefined
      return offered.filter((hash) => !present.includes(hash)).map((hash) => `<upgrade xmlns='${NS}'>UPGR-SCRAM-${hash}</upgrade>`).join('')
    })

    sasl2.tasks(async (owner, { mechanism, request }) => {
      // Who has logged in otherwise has not shown that it knows the password.
      if (mechanism !== 'PLAIN' && !mechanism.startsWith('SCRAM-')) return []
      const asked = request.children.filter(({ name, xmlns }) => name === 'upgrade' && xmlns === NS).map((child) => request.childElement(child).getText().trim())
      if (asked.length === 0) return []
      const present = (await accounts.hashes(owner)) ?? []
      // It has no password at all.
      if (present.length === 0) return []
      const missing = offered.filter((hash) => !present.includes(hash) && asked.includes(`UPGR-SCRAM-${hash}`))
      const mark = missing.length === 0 ? undefined : await markOf(owner)
      return mark === undefined ? [] : missing.map((hash) => upgrade(owner, hash, mark))
    })

    /** Without an answer there is nothing to do for now. */
    async function markOf(owner: string): Promise<string | undefined> {
      try {
        return await accounts.passwordMark(owner)
      } catch (error) {
        if (!(error instanceof AccountError)) throw error
        return undefined
      }
    }

    /** `mark`: of the password with which the client has logged in. */
    function upgrade(owner: string, hash: ScramHash, mark: string): Task {
      const salt = randomBytes(16)
      return {
        name: `UPGR-SCRAM-${hash}`,
        begin: () => `<salt xmlns='${SCRAM_NS}' iterations='${ITERATIONS}'>${salt.toString('base64')}</salt>`,
        async finish(data) {
          const span = data.find('hash', SCRAM_NS)
          const text = span === undefined ? '' : data.childElement(span).getText().trim()
          const salted = Buffer.from(text, 'base64')
          if (salted.toString('base64') !== text || salted.length !== hashBytes(hash)) throw new SaslFailure('malformed-request')
          try {
            await accounts.addKeys(owner, hash, { salt, iterations: ITERATIONS, ...keysOf(hash, salted) }, mark)
          } catch (error) {
            if (!(error instanceof AccountError)) throw error
            throw new SaslFailure(error.condition === 'conflict' ? 'not-authorized' : 'temporary-auth-failure', error.message)
          }
          log.info({ what: 'password_upgraded', account: owner, hash })
        },
      }
    }
  },
})
