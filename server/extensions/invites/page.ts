/** The page that an invitation leads to (XEP-0379 §3.3, XEP-0401 §4.2): one HTML file without scripts and without anything from elsewhere. */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { encode } from 'uqr'
import { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { escapeXml } from '../../../lib/xml/element.ts'
import type { Limits } from '../../config/limits.ts'
import { HttpError, readBody } from '../../http/http.ts'
import type { HttpPath, HttpRoutes } from '../../http/routes.ts'
import type { Invite } from './store.ts'

const ROUTE = '/invites'
const FORM_BYTES_MAX = 8192

export interface PageInvite {
  readonly invite: Invite
  /** Whether it can still be used. */
  readonly open: boolean
  readonly uri: string
  readonly canRegister: boolean
  /** Makes the account and answers its bare JID; throws a StanzaError when it cannot be. */
  register(username: string, password: string, address: string): Promise<string>
}

export interface PageParts {
  readonly host: string
  readonly siteName: string
  readonly webchat: string | undefined
  readonly http: HttpRoutes
  readonly limits: Limits
  /** Signs the forms, so that none of another site is taken for one of ours. */
  readonly secret: Uint8Array
  find(token: string): Promise<PageInvite | undefined>
}

/** Serves the page of each invitation below `/invites`, for all hosts at once: a token tells whose it is. Call the result to stop. */
export function servePage(hosts: Map<string, PageParts>, own: PageParts): () => void {
  async function show(request: IncomingMessage, response: ServerResponse, path: HttpPath): Promise<void> {
    const { token, parts, found } = await read(path)
    const wrong = overText(found)
    if (found === undefined || wrong !== undefined) return send(response, 404, overPage(parts, wrong ?? ''))
    send(response, 200, invitePage(parts, token, found, systemOf(request)))
  }

  async function register(request: IncomingMessage, response: ServerResponse, path: HttpPath): Promise<void> {
    const { token, parts, found } = await read(path)
    requireOwnForm(request)
    const form = new URLSearchParams((await readBody(request, response, FORM_BYTES_MAX, parts.limits)).toString('utf8'))
    const wrong = overText(found)
    if (found === undefined || wrong !== undefined || !found.canRegister) return send(response, 404, overPage(parts, wrong ?? 'No account can be made with this invitation.'))
    const username = (form.get('username') ?? found.invite.username).trim()
    const again = (problem: string): void => { send(response, 400, invitePage(parts, token, found, systemOf(request), { problem, username })) }
    if (!isSigned(token, form.get('form') ?? '')) return again('This form was not made by this page, or is too old. Please try again.')
    const password = form.get('password') ?? ''
    if (password !== (form.get('password2') ?? '')) return again('The two passwords are not the same.')
    try {
      const jid = await found.register(username, password, path.address)
      send(response, 201, donePage(parts, jid, found.invite, systemOf(request)))
    } catch (error) {
      if (!(error instanceof StanzaError)) throw error
      again(explain(error))
    }
  }

  async function read(path: HttpPath): Promise<{ token: string; parts: PageParts; found: PageInvite | undefined }> {
    const [, , token = '', ...more] = path.path.split('/')
    if (more.length === 0 && /^[A-Za-z0-9]{1,64}$/.test(token)) {
      for (const parts of hosts.values()) {
        const found = await parts.find(token)
        if (found !== undefined) return { token, parts, found }
      }
    }
    return { token, parts: hosts.get(path.host) ?? own, found: undefined }
  }

  function isSigned(token: string, signature: string): boolean {
    const given = Buffer.from(signature)
    const expected = Buffer.from(sign(own.secret, token))
    return given.length === expected.length && timingSafeEqual(given, expected)
  }

  hosts.set(own.host, own)
  // Whichever host's route stands answers for all.
  const routes = [own.http.add('GET', ROUTE, show), own.http.add('POST', ROUTE, register)]
  return () => {
    for (const remove of routes) remove()
    if (hosts.get(own.host) === own) hosts.delete(own.host)
  }
}

function sign(secret: Uint8Array, token: string): string {
  return createHmac('sha256', secret).update(token).digest('base64url')
}

/** No page of another site sends our form. */
function requireOwnForm(request: IncomingMessage): void {
  if (request.headers['content-type']?.split(';')[0]?.trim().toLowerCase() !== 'application/x-www-form-urlencoded') throw new HttpError(415)
  const site = request.headers['sec-fetch-site']
  if (site !== undefined) {
    if (site !== 'same-origin') throw new HttpError(403)
    return
  }
  // Browsers that do not say so.
  const { origin } = request.headers
  if (origin !== undefined && URL.parse(origin)?.host !== request.headers.host) throw new HttpError(403)
}

function explain({ condition, text }: StanzaError): string {
  if (condition === 'conflict') return 'This user name is taken. Please choose another one.'
  if (condition === 'jid-malformed') return 'This cannot be a user name. Use letters, digits, dots, dashes and underscores.'
  return text ?? (condition === 'not-acceptable' ? 'Please choose a user name and a password.' : 'The account could not be made. Please try again later.')
}

function overText(found: PageInvite | undefined): string | undefined {
  if (found === undefined) return 'There is no such invitation, or it is over.'
  if (found.invite.used !== '') return 'This invitation has been used already.'
  return found.open ? undefined : 'This invitation is over.'
}

// ---- What is seen

type System = 'android' | 'ios' | 'mac' | 'other'

function systemOf(request: IncomingMessage): System {
  const agent = request.headers['user-agent'] ?? ''
  if (/Android/i.test(agent)) return 'android'
  if (/iPhone|iPad|iPod/i.test(agent)) return 'ios'
  return /Macintosh/i.test(agent) ? 'mac' : 'other'
}

interface App {
  readonly name: string
  readonly on: string
  readonly systems: readonly System[]
  readonly links: readonly (readonly [string, string])[]
}

const APPS: readonly App[] = [
  { name: 'Conversations', on: 'Android', systems: ['android'], links: [['Google Play', 'https://play.google.com/store/apps/details?id=eu.siacs.conversations'], ['F-Droid', 'https://f-droid.org/packages/eu.siacs.conversations/']] },
  { name: 'Monal', on: 'iPhone, iPad and Mac', systems: ['ios', 'mac'], links: [['App Store', 'https://apps.apple.com/app/id317711500'], ['monal-im.org', 'https://monal-im.org/install/']] },
  { name: 'Gajim', on: 'Windows, Linux and Mac', systems: ['other', 'mac'], links: [['gajim.org', 'https://gajim.org/download/']] },
  { name: 'Dino', on: 'Linux', systems: ['other'], links: [['dino.im', 'https://dino.im/#download']] },
]

function invitePage(parts: PageParts, token: string, { invite, uri, canRegister }: PageInvite, system: System, tried?: { readonly problem: string; readonly username: string }): string {
  const { siteName, host, webchat } = parts
  const who = invite.inviter === '' ? undefined : Jid.parse(invite.inviter).local
  const title = who === undefined ? `You are invited to ${siteName}` : invite.kind === 'contact' ? `${who} invites you to chat` : `${who} invites you to ${siteName}`
  const action = invite.kind === 'contact' && !canRegister ? `Add ${who ?? siteName} to my contacts` : 'Open in my chat app'
  const ends = new Date(invite.until)
  const steps = `
<section aria-labelledby="app">
<h2 id="app"><span class="step">1</span> Get a chat app</h2>
<p>${escapeXml(siteName)} speaks XMPP, an open standard: any of these apps will do, and they are free. Skip this when you have one.</p>
${appList(system, uri)}
</section>
<section aria-labelledby="open">
<h2 id="open"><span class="step">2</span> Accept the invitation</h2>
<p><a class="button" href="${escapeXml(uri)}">${escapeXml(action)}</a></p>
<p class="quiet">Nothing happens? Then the app is not installed yet: install it and come back to this page.</p>
<figure>${qrOf(uri)}<figcaption>Reading this on a computer? Scan it with the app on your phone.</figcaption></figure>
</section>`
  const web = canRegister ? `
<section aria-labelledby="web">
<h2 id="web"><span class="step">or</span> Make the account here</h2>
<p>Then log in with it in any app.</p>
${tried === undefined ? '' : `<p class="problem" role="alert" id="problem">${escapeXml(tried.problem)}</p>`}
<form method="post" action="${escapeXml(token)}"${tried === undefined ? '' : ' aria-describedby="problem"'}>
<input type="hidden" name="form" value="${sign(parts.secret, token)}">
<label for="username">User name</label>
<span class="address"><input id="username" name="username" required autocapitalize="none" autocorrect="off" spellcheck="false" autocomplete="username" maxlength="256" value="${escapeXml(tried?.username ?? invite.username)}"${invite.username === '' ? '' : ' readonly'}><span>@${escapeXml(host)}</span></span>
<label for="password">Password</label>
<input id="password" name="password" type="password" required autocomplete="new-password" maxlength="512">
<label for="password2">The same password again</label>
<input id="password2" name="password2" type="password" required autocomplete="new-password" maxlength="512">
<button class="button">Make my account</button>
</form>
</section>` : ''
  const chat = webchat === undefined ? '' : `<p>You can also <a href="${escapeXml(webchat)}">chat in the browser</a>.</p>`
  return layout(title, `
<header><h1>${escapeXml(title)}</h1>
<p>${escapeXml(who === undefined ? `${siteName} is a chat server.` : `${invite.inviter} would like to chat with you.`)} The invitation is for one person and ends on <time datetime="${ends.toISOString()}">${escapeXml(ends.toLocaleDateString('en-GB', { day: 'numeric', month: 'long', year: 'numeric', timeZone: 'UTC' }))}</time>.</p></header>
${steps}${web}${chat}`)
}

function donePage({ siteName }: PageParts, jid: string, invite: Invite, system: System): string {
  return layout('Your account is made', `
<header><h1>Welcome to ${escapeXml(siteName)}</h1>
<p>Your account is made. Its address is also how others find you:</p>
<p class="jid"><strong>${escapeXml(jid)}</strong></p></header>
<section aria-labelledby="app">
<h2 id="app">Log in</h2>
<p>Open one of these apps and log in with this address and your password.${invite.subscribe && invite.inviter !== '' ? ` ${escapeXml(invite.inviter)} is in your contacts already.` : ''}</p>
${appList(system)}
</section>`)
}

function overPage({ siteName }: PageParts, text: string): string {
  return layout('Invitation', `<header><h1>This invitation does not work</h1><p>${escapeXml(text)}</p><p>Please ask for a new one${siteName === '' ? '' : ` to ${escapeXml(siteName)}`}.</p></header>`)
}

/** Those for the reader's system first. */
function appList(system: System, uri?: string): string {
  const fits = (app: App): boolean => app.systems.includes(system)
  const sorted = [...APPS.filter(fits), ...APPS.filter((app) => !fits(app))]
  // Google Play hands this to the app when it is installed, which goes on with the invitation.
  const linkOf = (url: string): string => uri !== undefined && url.includes('play.google.com') ? `${url}&referrer=${encodeURIComponent(uri)}` : url
  return `<ul class="apps">${sorted.map((app) => `<li${fits(app) ? ' class="fits"' : ''}><span><strong>${app.name}</strong> <span class="quiet">for ${app.on}</span></span><span class="links">${app.links
    .map(([name, url]) => `<a href="${escapeXml(linkOf(url))}" rel="noopener">${name}</a>`).join(' ')}</span></li>`).join('\n')}</ul>`
}

/** One path: a square for each dark module, with the quiet zone that readers need. */
export function qrOf(text: string): string {
  const { data, size } = encode(text, { ecc: 'M', border: 4 })
  let path = ''
  data.forEach((row, y) => row.forEach((dark, x) => { if (dark) path += `M${x} ${y}h1v1h-1z` }))
  return `<svg class="qr" role="img" aria-label="The invitation as a QR code" viewBox="0 0 ${size} ${size}" shape-rendering="crispEdges"><rect width="100%" height="100%" fill="#fff"/><path d="${path}" fill="#000"/></svg>`
}

const STYLE = `
:root{color-scheme:light dark;--ink:#1b1f24;--quiet:#57606a;--paper:#fff;--ground:#eef1f5;--line:#d5dbe2;--brand:#0b5cad;--on-brand:#fff;--bad:#b3261e;--bad-ground:#fdecea}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--quiet:#a4adb8;--paper:#1d2127;--ground:#121519;--line:#3a414b;--brand:#7db7f5;--on-brand:#0b1a2b;--bad:#ffb4ab;--bad-ground:#3b1614}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:1.0625rem/1.55 system-ui,sans-serif}
main{max-width:38rem;margin:0 auto;padding:1rem}
header,section{background:var(--paper);border:1px solid var(--line);border-radius:14px;padding:1.25rem 1.25rem 1rem;margin:0 0 1rem}
h1{font-size:1.65rem;line-height:1.2;margin:0 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 .5rem;display:flex;align-items:center;gap:.6rem}
p{margin:0 0 .75rem;overflow-wrap:anywhere}
a{color:var(--brand)}
.step{flex:none;min-width:1.8rem;height:1.8rem;padding:0 .4rem;border-radius:1rem;background:var(--brand);color:var(--on-brand);font-size:.95rem;display:inline-flex;align-items:center;justify-content:center}
.quiet{color:var(--quiet);font-size:.95rem}
.apps{list-style:none;margin:0;padding:0}
.apps li{display:flex;flex-wrap:wrap;justify-content:space-between;gap:.1rem 1rem;padding:.5rem 0;border-top:1px solid var(--line)}
.links{display:flex;gap:1rem}
.links a{padding:.25rem 0}
.button{display:block;width:100%;padding:.85rem 1rem;border:0;border-radius:10px;background:var(--brand);color:var(--on-brand);font:inherit;font-weight:600;text-align:center;text-decoration:none;cursor:pointer}
.button:hover{filter:brightness(1.08)}
:focus-visible{outline:3px solid var(--brand);outline-offset:2px}
figure{margin:1rem 0 .25rem;text-align:center}
figcaption{color:var(--quiet);font-size:.95rem;margin-top:.5rem}
.qr{width:min(15rem,70vw);height:auto;border-radius:8px;border:1px solid var(--line)}
label{display:block;font-weight:600;margin:.75rem 0 .25rem}
input:not([type=hidden]){width:100%;min-width:0;padding:.7rem .8rem;border:1px solid var(--quiet);border-radius:8px;background:var(--paper);color:inherit;font:inherit}
input[readonly]{background:var(--ground)}
.address{display:flex;align-items:center;gap:.5rem}
.address span{flex:none;max-width:55%;overflow-wrap:anywhere;color:var(--quiet)}
form .button{margin-top:1.25rem}
.problem{background:var(--bad-ground);color:var(--bad);border-radius:8px;padding:.6rem .8rem}
.jid{font-size:1.2rem}
@media(min-width:40rem){main{padding:2.5rem 1rem}header,section{padding:1.75rem 2rem 1.25rem}}
`
/** Nothing but this style, and nothing from elsewhere. */
const POLICY = `default-src 'none'; style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'`

function layout(title: string, body: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>${escapeXml(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<main>${body}
</main>
</body>
</html>
`
}

function send(response: ServerResponse, status: number, page: string): void {
  response.writeHead(status, {
    'Content-Type': 'text/html; charset=utf-8',
    'Content-Length': Buffer.byteLength(page),
    'Content-Security-Policy': POLICY,
    'X-Content-Type-Options': 'nosniff',
    // The address holds the token: it is for no other site, and for no cache. Without `Referer` browsers would send no `Origin` either.
    'Referrer-Policy': 'same-origin',
    'Cache-Control': 'no-store',
  })
  response.end(response.req.method === 'HEAD' ? undefined : page)
}
