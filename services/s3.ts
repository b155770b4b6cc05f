/** A server that speaks S3: SeaweedFS. */
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { Daemon } from './daemon.ts'
import { fetchSeaweedfs, install } from './install.ts'
import { place, Service, type ServiceOptions } from './service.ts'

const START_MS = 60_000

export class S3 extends Service {
  readonly endpoint: string
  readonly accessKey = 'testkey'
  readonly secretKey = 'testsecret123'

  constructor(dir: string, port: number, daemons: Service['daemons']) {
    super(`http://127.0.0.1:${port}`, dir, daemons)
    this.endpoint = this.url
  }
}

/** S3 on the first port; its parts talk to each other on the next seven. */
export async function startS3(options: ServiceOptions = {}): Promise<S3> {
  install(['s3'])
  const { dir, port } = await place('s3', options, 8)
  const data = path.join(dir, 'data')
  mkdirSync(data, { recursive: true })
  const keys = path.join(dir, 's3.json')
  const s3 = new S3(dir, port, [])
  writeFileSync(keys, JSON.stringify({
    identities: [{ name: 'tidings', credentials: [{ accessKey: s3.accessKey, secretKey: s3.secretKey }], actions: ['Admin', 'Read', 'Write', 'List', 'Tagging'] }],
  }))
  const daemon = await Daemon.start({
    name: 's3',
    dir,
    command: fetchSeaweedfs(),
    args: [
      '-logtostderr=true', 'server', `-dir=${data}`, '-ip=127.0.0.1', '-ip.bind=127.0.0.1', '-s3', `-s3.config=${keys}`, '-s3.iam=false', '-s3.port.iceberg=0', '-s3.port.lance=0',
      `-s3.port=${port}`, `-s3.port.grpc=${port + 1}`, `-master.port=${port + 2}`, `-master.port.grpc=${port + 3}`, `-volume.port=${port + 4}`, `-volume.port.grpc=${port + 5}`,
      '-filer', `-filer.port=${port + 6}`, `-filer.port.grpc=${port + 7}`,
      '-volume.preStopSeconds=0', '-master.telemetry=false', '-master.volumeSizeLimitMB=64', '-volume.max=50',
    ],
    startMs: START_MS,
    ...options.stays === undefined ? {} : { stays: options.stays },
    // It refuses who shows no key, and that is an answer.
    ready: async () => (await fetch(s3.url)).status < 500,
  })
  return new S3(dir, port, [daemon])
}
