/** The archive of one machine: its changes are sections of the log, and its blocks rows of the database. */
import { type ArchiveEntry } from '../shapes.ts'
import { TailArchive } from '../archive/archive.ts'
import { Blocks } from '../archive/blocks.ts'
import { type Row } from '../groups/database.ts'
import { FIRST_SECTION, type GroupedStore, type Participant } from '../groups/groups.ts'
import { type RecordReader } from '../groups/record.ts'

const APPENDED = 1
const REMOVED = 2

export class LoggedArchive implements Participant {
  readonly section = FIRST_SECTION + 1
  readonly #archive: TailArchive

  constructor(store: GroupedStore) {
    this.#archive = new TailArchive(() => store.committed(), new Blocks(store), {
      appended: ({ id, owners, bytes }) => {
        store.section(this, (writer) => {
          writer.uint8(APPENDED)
          writer.text(id)
          writer.bytes(bytes)
          for (const { owner, with: other } of owners) {
            writer.text(owner)
            writer.text(other)
          }
        })
      },
      removed: (owner, id) => {
        store.section(this, (writer) => {
          writer.uint8(REMOVED)
          writer.text(id)
          writer.text(owner)
        })
      },
    })
  }

  get archive(): TailArchive { return this.#archive }

  /** Nothing waits for that: every change is a section at once. */
  seal(): void {}
  turnOver(): void { this.#archive.turnOver() }
  rows(): Iterable<Row | undefined> { return this.#archive.rows() }
  applied(): void { this.#archive.applied() }

  replay(section: RecordReader): void {
    const what = section.uint8()
    const id = section.text()
    if (what === REMOVED) {
      this.#archive.redoRemove(section.text(), id)
      return
    }
    const bytes = Buffer.from(section.bytes())
    const owners: ArchiveEntry['owners'][number][] = []
    while (!section.isAtEnd) owners.push({ owner: section.text(), with: section.text() })
    this.#archive.redoAppend({ id, owners, bytes })
  }
}
