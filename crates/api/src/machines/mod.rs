//! `/v1/apps/{app}/machines`: the Machines API. Shapes and texts follow its documentation and what
//! its clients match on.

mod calls;
mod create;
mod exec;
mod lease;
mod metadata;
mod read;
pub(crate) mod view;

use crate::describe::Routes;
pub(crate) use read::listed;

pub fn routes() -> Routes {
    let machine = "/v1/apps/{app_name}/machines/{machine_id}";
    let under = |path: &str| format!("{machine}/{path}");
    Routes::default()
        .get("/v1/apps/{app_name}/machines", "Machines_list", "The machines of an app", read::list)
        .post("/v1/apps/{app_name}/machines", "Machines_create", "Make a machine", create::create)
        .get(machine, "Machines_show", "One machine", read::show)
        .post(machine, "Machines_update", "Make a new version of a machine", create::update)
        .fails([409])
        .delete(machine, "Machines_delete", "Destroy a machine", calls::destroy)
        .post(&under("start"), "Machines_start", "Start a machine", calls::start)
        .post(&under("stop"), "Machines_stop", "Stop a machine", calls::stop)
        .post(&under("suspend"), "Machines_suspend", "Freeze a machine", calls::suspend)
        .post(&under("restart"), "Machines_restart", "Stop a machine and start it again", calls::restart)
        .post(&under("signal"), "Machines_signal", "Send a signal to a machine's process", calls::signal)
        .post(&under("cordon"), "Machines_cordon", "Send a machine no more requests", calls::cordon)
        .post(&under("uncordon"), "Machines_uncordon", "Let a machine have requests again", calls::uncordon)
        .get(&under("wait"), "Machines_wait", "Wait until a machine is in a state", read::wait)
        .fails([408])
        .get(&under("events"), "Machines_list_events", "What happened to a machine, newest first", read::events)
        .get(&under("versions"), "Machines_list_versions", "The versions a machine had, newest first", read::versions)
        .get(&under("ps"), "Machines_list_processes", "The processes in a machine", read::processes)
        .post(&under("exec"), "Machines_exec", "Run a command in a machine", exec::exec)
        .get(&under("lease"), "Machines_show_lease", "The lease that lives", lease::get)
        .post(&under("lease"), "Machines_create_lease", "Acquire or refresh a lease", lease::acquire)
        .fails([409])
        .not_audited()
        .delete(&under("lease"), "Machines_release_lease", "Release a lease", lease::release)
        .not_audited()
        .get(&under("metadata"), "Machines_show_metadata", "A machine's metadata", metadata::all)
        .patch(&under("metadata"), "Machines_patch_metadata", "Merge into a machine's metadata", metadata::merge)
        .fails([412])
        .put(&under("metadata"), "Machines_update_metadata", "Deprecated: as PATCH", metadata::merge)
        .fails([412])
        .get(&under("metadata/{key}"), "Machines_get_metadata_key", "One value", metadata::one)
        .fails([404])
        .post(&under("metadata/{key}"), "Machines_upsert_metadata_key", "Set one value", metadata::set)
        .delete(&under("metadata/{key}"), "Machines_delete_metadata", "Remove one value", metadata::remove)
}
