/** A failure of storage that a person has to see to: its message says what is wrong and what to do. */
export class StorageError extends Error {
  override readonly name = 'StorageError'
}
