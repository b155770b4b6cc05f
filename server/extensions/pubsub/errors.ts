/** XEP-0060 §11: error conditions of its own beside those of RFC 6120. */
import { StanzaError, type StanzaErrorCondition, type StanzaErrorType } from '../../../lib/stanza/errors.ts'

const ERRORS_NS = 'http://jabber.org/protocol/pubsub#errors'

/** A stanza error with a condition such as `closed-node` in it. `feature`: of `unsupported`. */
export function pubsubError(condition: StanzaErrorCondition, own: string, options: { readonly text?: string; readonly feature?: string; readonly type?: StanzaErrorType } = {}): StanzaError {
  const feature = options.feature === undefined ? '' : ` feature='${options.feature}'`
  return new StanzaError(condition, options.text, { extra: `<${own} xmlns='${ERRORS_NS}'${feature}/>`, ...(options.type === undefined ? {} : { type: options.type }) })
}

/** A part of XEP-0060 that is not there, by the name of its feature. */
export function unsupported(feature: string): StanzaError {
  return pubsubError('feature-not-implemented', 'unsupported', { feature })
}
