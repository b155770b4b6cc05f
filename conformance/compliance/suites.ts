/** XEP-0479: XMPP Compliance Suites 2023, version 0.1.0: the columns for servers. */
import type { SuiteFeature } from './check.ts'

function suite(name: string, core: Readonly<Record<string, readonly string[]>>, advanced: Readonly<Record<string, readonly string[]>>): SuiteFeature[] {
  return [core, advanced].flatMap((features, level) => Object.entries(features).map(([title, rows]) => ({ suite: name, title, advanced: level === 1, rows })))
}

export const SUITES: readonly SuiteFeature[] = [
  ...suite('Core',
    { 'Core features (RFC 6120)': ['E1'], 'TLS (RFC 7590)': ['S1'], 'Feature discovery (0030)': ['E11'], 'Server extensibility (0114)': ['S3'] },
    { 'Direct TLS (0368)': ['S2'], 'Feature broadcasts (0115)': ['E3'], 'Event publishing (0163)': ['D4', 'A11'] }),
  ...suite('Web', { 'WebSocket (RFC 7395)': ['S4'], 'BOSH (0124, 0206)': ['S5'] }, {}),
  ...suite('IM',
    { 'Core features (RFC 6121)': ['S6'], 'vcard-temp (0054)': ['D2'], 'Carbons (0280)': ['A2'], 'Group chat (0045, 0249)': ['D1', 'S9'], 'File upload (0363)': ['A12'] },
    {
      'User avatar compatibility (0398, 0153)': ['D12'], 'User blocking (0191)': ['A5'], 'Advanced group chat (0048, 0313, 0402, 0410)': ['D13', 'D14', 'A14', 'S8'],
      'Private data via PubSub (0223)': ['D5'], 'Private XML (0049)': ['S7'], 'Stream management (0198)': ['A6'], 'History (0313)': ['A3'],
    }),
  ...suite('Mobile', { 'Stream management (0198)': ['A6'], 'Client state (0352)': ['A4'] }, { 'Push (0357)': ['A13'] }),
  ...suite('A/V Calling', { 'STUN and TURN (0215)': ['A7'] }, {}),
]
