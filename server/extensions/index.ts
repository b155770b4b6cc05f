/** All extensions. Their order is the order of their handlers within a phase. */
import { abuseReports } from './abuse-reports.ts'
import { adhoc } from './adhoc.ts'
import { announcements } from './announcements.ts'
import { archive } from './archive.ts'
import { avatarPresence, avatars } from './avatars.ts'
import { blocking } from './blocking.ts'
import { bookmarks } from './bookmarks.ts'
import { bosh } from './bosh.ts'
import { caps } from './caps.ts'
import { carbons } from './carbons.ts'
import { clientAccess } from './client-access.ts'
import { clientState } from './client-state.ts'
import { contactAddresses } from './contact-addresses.ts'
import { dataExport } from './data-export.ts'
import { delayedDelivery } from './delayed-delivery.ts'
import { disco } from './disco.ts'
import { displayed } from './displayed.ts'
import { entityTime } from './entity-time.ts'
import type { Extension } from './extension.ts'
import { externalServices } from './external-services.ts'
import { fast } from './fast.ts'
import { bidirectionalStreams, serverDialback } from './federation.ts'
import { flexibleOffline } from './flexible-offline.ts'
import { hints } from './hints.ts'
import { hostMeta } from './host-meta.ts'
import { httpUpload, httpUploadQuota } from './http-upload.ts'
import { invites } from './invites.ts'
import { lastActivity } from './last-activity.ts'
import { loginBans } from './login-bans.ts'
import { muc } from './muc/muc.ts'
import { multicast } from './multicast.ts'
import { namespaceDelegation } from './namespace-delegation.ts'
import { offline } from './offline.ts'
import { ping } from './ping.ts'
import { privateStorage } from './private-storage.ts'
import { privilegedEntity } from './privileged-entity.ts'
import { pubsub } from './pubsub.ts'
import { push, pushKeepalive } from './push.ts'
import { register } from './register.ts'
import { roster } from './roster.ts'
import { scramUpgrade } from './scram-upgrade.ts'
import { serviceStatus } from './service-status.ts'
import { serviceAdministration } from './service-administration.ts'
import { sharedRosterLdap } from './shared-roster-ldap.ts'
import { socks5Proxy } from './socks5/proxy.ts'
import { stanzaIds } from './stanza-ids.ts'
import { streamLimits } from './stream-limits.ts'
import { streamManagement } from './stream-management.ts'
import { userSearch } from './user-search.ts'
import { vcard } from './vcard.ts'
import { version } from './version.ts'

export const extensions = [
  // What may refuse or mark a stanza comes first.
  blocking, hints, stanzaIds, delayedDelivery,
  // Then what stores and copies it.
  archive, carbons, offline,
  streamManagement, streamLimits, clientState, serverDialback, bidirectionalStreams,
  push, pushKeepalive,
  abuseReports, externalServices, serviceStatus, socks5Proxy, multicast,
  disco, caps, contactAddresses, adhoc, dataExport, serviceAdministration, announcements,
  loginBans, fast, scramUpgrade, clientAccess,
  roster, privilegedEntity, namespaceDelegation, sharedRosterLdap, register, invites, privateStorage, vcard, userSearch, lastActivity, flexibleOffline,
  ping, version, entityTime, httpUpload, httpUploadQuota, bosh, hostMeta,
  muc,
  // What keeps things in personal nodes comes after them.
  pubsub, avatars, avatarPresence, bookmarks, displayed,
] as unknown as readonly Extension[]
