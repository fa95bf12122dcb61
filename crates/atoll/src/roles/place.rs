//! What a server knows of the place where it stands, told to control: what the guard beside it announces.

use std::io::{ErrorKind, Read};
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use tonic::{Request, Response, Status};

use atoll_anycast::guard::files::REPORT;
use atoll_anycast::guard::report::Report;
use atoll_rpc::proto::place::place_server::{Place, PlaceServer};
use atoll_rpc::proto::place::{
    AnnouncementsReply, AnnouncementsRequest, DeviceReply, DeviceRequest, MeshReply, MeshRequest,
};

use super::net::{DEVICES_PATH, MESH_PATH};
use crate::node::metrics;

/// Longer files are no reports.
const MAX_REPORT: u64 = 4 << 20;

/// Reads the guard's folder and asks the net process whenever it is asked.
pub struct PlaceService {
    guard: PathBuf,
    net: PathBuf,
}

impl PlaceService {
    /// `guard`: the folder that a guard on this server is given; `net`: where the net process answers.
    pub fn server(guard: PathBuf, net: PathBuf) -> PlaceServer<Self> {
        PlaceServer::new(Self { guard, net })
    }
}

#[tonic::async_trait]
impl Place for PlaceService {
    async fn announcements(&self, _: Request<AnnouncementsRequest>) -> Result<Response<AnnouncementsReply>, Status> {
        let file = self.guard.join(REPORT);
        let read = tokio::task::spawn_blocking(move || {
            let report_json = read_report(&file)?;
            // A report of a newer guard is passed on as it is; of its process nothing is known then.
            let running = serde_json::from_slice::<Report>(&report_json).is_ok_and(|report| is_guard(report.pid));
            Ok(AnnouncementsReply { report_json: report_json.into(), running })
        });
        let read: std::io::Result<_> = read.await.map_err(|error| Status::internal(error.to_string()))?;
        read.map(Response::new).map_err(|error| Status::internal(format!("cannot read the guard's report: {error}")))
    }

    async fn mesh(&self, _: Request<MeshRequest>) -> Result<Response<MeshReply>, Status> {
        let report = metrics::ask(&self.net, MESH_PATH).await;
        let report = report.inspect_err(|error| {
            tracing::info!(error = format!("{error:#}"), "the net process does not say how the mesh is");
        });
        Ok(Response::new(MeshReply { report_json: report.unwrap_or_default().into() }))
    }

    async fn device(&self, request: Request<DeviceRequest>) -> Result<Response<DeviceReply>, Status> {
        let address = &request.get_ref().address;
        let address: Ipv6Addr =
            address.parse().map_err(|_| Status::invalid_argument(format!("{address:?} is no device's address")))?;
        let report = metrics::ask(&self.net, &format!("{DEVICES_PATH}/{address}")).await;
        let report = report.map_err(|error| Status::unavailable(format!("the net process does not say: {error:#}")))?;
        Ok(Response::new(DeviceReply { report_json: report.into() }))
    }
}

/// Empty if there is none.
fn read_report(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    match std::fs::File::open(file) {
        Ok(file) => file.take(MAX_REPORT).read_to_end(&mut text).map(|_| text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(text),
        Err(error) => Err(error),
    }
}

/// Whether the process with this number is a guard: the number may be another's by now.
fn is_guard(pid: i32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|byte| *byte == 0).nth(1) == Some(b"guard")
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn without_a_guard_there_is_no_report() {
        let folder = tempfile::tempdir().unwrap();
        let place = PlaceService { guard: folder.path().join("guard"), net: folder.path().join("net") };
        let reply = place.announcements(Request::new(AnnouncementsRequest {})).await.unwrap().into_inner();
        assert_eq!(reply, AnnouncementsReply::default());
        assert!(!is_guard(std::process::id().cast_signed()));
        let reply = place.mesh(Request::new(MeshRequest {})).await.unwrap().into_inner();
        assert_eq!(reply, MeshReply::default(), "nobody answers");
        for (address, code) in [("fdaa:0:1::5:2", Code::Unavailable), ("../mesh", Code::InvalidArgument)] {
            let asked = place.device(Request::new(DeviceRequest { address: address.to_owned() })).await;
            assert_eq!(asked.unwrap_err().code(), code);
        }
    }
}
