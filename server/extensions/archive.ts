/** History of accounts: see archive/archive.ts. */
export { archive } from './archive/archive.ts'
