/** The message for every new account: the option of mod_register, unless an administrator has set another (XEP-0133 §4.27, §4.28). */
import type { Records } from '../storage/shapes.ts'

export interface WelcomeMessage {
  readonly subject: string
  readonly body: string
}

/** Key [host]; value: the message, and the option that it took the place of. */
const TABLE = 'welcome'

interface Stored extends WelcomeMessage {
  readonly [key: string]: string
  readonly replaced: string
}

/** Empty when there is none. An option that was changed since counts again. */
export async function welcomeMessage(records: Records, host: string, option: WelcomeMessage): Promise<WelcomeMessage> {
  const stored = (await records.get(TABLE, [host])) as Stored | undefined
  return stored?.replaced === keyOf(option) ? { subject: stored.subject, body: stored.body } : option
}

/** Written in this turn. An empty message: none from now on, not that of the option either. */
export function setWelcomeMessage(records: Records, host: string, option: WelcomeMessage, { subject, body }: WelcomeMessage): void {
  const stored: Stored = { subject, body, replaced: keyOf(option) }
  records.put(TABLE, [host], stored)
}

function keyOf({ subject, body }: WelcomeMessage): string {
  return JSON.stringify([subject, body])
}
