/** The store would never take what was to be written, however often it is asked: it is too large, or breaks a rule of the store. */
export class RefusedError extends Error {}
