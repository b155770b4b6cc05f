/** The services that run on Java. */
import path from 'node:path'
import { Daemon, type Launch } from './daemon.ts'
import { fetchJars, type Jars } from './install.ts'
import type { ServiceOptions } from './service.ts'

/** A machine that has more to do starts these slowly. */
const START_MS = 180_000

export interface JavaOptions extends ServiceOptions {
  /** Memory for its objects, as Java writes it: `400m`. */
  readonly heap?: string
}

/** Arguments of `java` before the name of a class. `conf`: a folder that comes first among those in which it looks. */
export function javaArgs(jars: Jars, heap: string, options: readonly string[], conf?: string): string[] {
  const classPath = [...conf === undefined ? [] : [conf], path.join(fetchJars(jars), '*')].join(':')
  return [`-Xms${heap}`, `-Xmx${heap}`, '-XX:+UseSerialGC', '-Djava.awt.headless=true', ...options, '-cp', classPath]
}

export async function startJava(launch: Pick<Launch, 'name' | 'dir' | 'args' | 'ready'>, stays: boolean | undefined): Promise<Daemon> {
  return await Daemon.start({ ...launch, command: 'java', startMs: START_MS, ...stays === undefined ? {} : { stays } })
}
