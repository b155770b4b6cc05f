import { BatchError } from '../../../lib/hbase/index.ts'
import { RefusedError } from '../../cluster/errors.ts'

/** What HBase will never take, or a key that can be none, is told from what may be tried again. */
export async function refused(done: Promise<void>): Promise<void> {
  try {
    await done
  } catch (error) {
    throw error instanceof BatchError || error instanceof RangeError ? new RefusedError(error.message, { cause: error }) : error
  }
}
