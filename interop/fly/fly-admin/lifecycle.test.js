// A machine's life through the npm package fly-admin, as its users write it. Needs a running platform
// with the image hello/web:latest: ATOLL_API, ATOLL_TOKEN.
'use strict'

const assert = require('node:assert')
const { test } = require('node:test')
const Client = require('fly-admin/dist/client').default

const client = new Client(process.env.ATOLL_TOKEN, { apiUrl: process.env.ATOLL_API })
const app = 'interop'

const config = {
  image: 'interop/web:latest',
  guest: { cpu_kind: 'shared', cpus: 1, memory_mb: 256 },
  services: [
    {
      protocol: 'tcp',
      internal_port: 8080,
      ports: [{ port: 80, handlers: ['http'] }],
      checks: [{ type: 'http', path: '/healthz', interval: '2s', timeout: '1s' }],
    },
  ],
}

test('a machine lives its life', async (t) => {
  await t.test('the app is there', async () => {
    const found = await client.App.getApp(app)
    assert.equal(found.name, app)
    const listed = await client.App.listApps('personal')
    assert.ok(listed.apps.some((one) => one.name === app))
  })

  let machine
  await t.test('create', async () => {
    machine = await client.Machine.createMachine({ app_name: app, name: 'first', config, skip_launch: true })
    assert.match(machine.id, /^[0-9a-f]{14}$/)
    assert.equal(machine.name, 'first')
    assert.equal(machine.config.image, config.image)
  })
  const at = () => ({ app_name: app, machine_id: machine.id })

  await t.test('a second one of the same name is refused', async () => {
    await assert.rejects(client.Machine.createMachine({ app_name: app, name: 'first', config }), /409.*already_exists/)
  })

  await t.test('start and wait', async () => {
    const started = await client.Machine.startMachine(at())
    assert.ok(['created', 'stopped'].includes(started.previous_state), started.previous_state)
    await client.Machine.waitMachine({ ...at(), instance_id: machine.instance_id, state: 'started', timeout: '30s' })
    assert.equal((await client.Machine.getMachine(at())).state, 'started')
  })

  await t.test('events, versions and processes', async () => {
    const events = await client.Machine.listEvents(at())
    assert.equal(events[0].type, 'start')
    assert.equal((await client.Machine.listVersions(at())).length, 1)
    const processes = await client.Machine.listProcesses(at())
    assert.ok(processes.some((one) => one.command.includes('hello')))
  })

  await t.test('lease', async () => {
    const lease = await client.Machine.acquireLease({ ...at(), ttl: 5 })
    assert.equal(lease.status, 'success')
    assert.ok(lease.data.nonce)
    const seen = await client.Machine.getLease(at())
    assert.equal(seen.data.owner, lease.data.owner)
    await assert.rejects(client.Machine.stopMachine(at()), /409.*lease currently held by/)
    // It ends by itself: that is what a lease is for.
    const deadline = Date.now() + 15_000
    for (;;) {
      try {
        await client.Machine.cordonMachine(at())
        break
      } catch (error) {
        if (Date.now() > deadline || !/409/.test(error.message)) throw error
        await new Promise((resolve) => setTimeout(resolve, 250))
      }
    }
  })

  await t.test('cordon and uncordon', async () => {
    assert.equal((await client.Machine.getMachine(at())).cordoned, true)
    await client.Machine.uncordonMachine(at())
    assert.equal((await client.Machine.getMachine(at())).cordoned, false)
  })

  await t.test('update makes a new version', async () => {
    const updated = await client.Machine.updateMachine({ ...at(), config: { ...config, env: { COLOUR: 'blue' } } })
    assert.notEqual(updated.instance_id, machine.instance_id)
    await client.Machine.waitMachine({ ...at(), instance_id: updated.instance_id, state: 'started', timeout: '30s' })
    assert.equal((await client.Machine.listVersions(at())).length, 2)
  })

  await t.test('restart and signal', async () => {
    await client.Machine.restartMachine({ ...at(), timeout: '5s' })
    const now = await client.Machine.getMachine(at())
    await client.Machine.waitMachine({ ...at(), instance_id: now.instance_id, state: 'started', timeout: '30s' })
    await client.Machine.signalMachine({ ...at(), signal: 'SIGUSR1' }).catch((error) => {
      // The app has no handler for it and ends; what counts is that the call is understood.
      assert.match(error.message, /412/)
    })
  })

  await t.test('delete without force is refused while it runs, then stop and delete', async () => {
    await client.Machine.startMachine(at()).catch(() => {})
    const now = await client.Machine.getMachine(at())
    await client.Machine.waitMachine({ ...at(), instance_id: now.instance_id, state: 'started', timeout: '30s' })
    await assert.rejects(client.Machine.deleteMachine(at()), /412.*unable to destroy machine/)
    await client.Machine.stopMachine({ ...at(), timeout: '5s' })
    await client.Machine.waitMachine({ ...at(), instance_id: now.instance_id, state: 'stopped', timeout: '30s' })
    await client.Machine.deleteMachine(at())
    const left = await client.Machine.listMachines(app)
    assert.ok(!left.some((one) => one.id === machine.id))
  })
})
