//! Apps: created, found, listed, deleted.

use atoll_model::reserved::{API, api_host};
use atoll_model::{AppName, MachineId, RegionCode, RowKey};
use atoll_store::{App, AppStatus, ErrorKind, MachineFilter, MachineRecord, NewApp, PageRequest};

use crate::{Control, ControlError, ControlResult, Kind};

impl Control {
    pub async fn app(&self, name: &AppName) -> ControlResult<App> {
        let wanted = name.clone();
        let found = self
            .store
            .read(move |tx| {
                let wanted = wanted.clone();
                async move { tx.app_fetch(&wanted).await }
            })
            .await;
        found.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                ControlError::not_found(format!("Could not find App {name:?}", name = name.as_str()))
            }
            _ => error.into(),
        })
    }

    pub async fn app_create(&self, new: NewApp) -> ControlResult<App> {
        if new.name.as_str() == API {
            let host = api_host(&self.settings.app_domain);
            let message = format!("Name has already been taken: {host} is the platform's own API");
            return Err(ControlError::new(Kind::NameTaken, message));
        }
        let now = self.now_ms();
        let name = new.name.clone();
        let created = self
            .store
            .write(move |tx| {
                let new = new.clone();
                async move { tx.app_create(&new, now).await }
            })
            .await;
        let app = created.map_err(|error| match error.kind() {
            ErrorKind::Taken => {
                ControlError::new(Kind::NameTaken, format!("Name has already been taken: there is an app {name}"))
            }
            _ => error.into(),
        })?;
        self.publish_app_certificate(&app)?;
        self.app_publish(&app.name).await?;
        Ok(app)
    }

    /// Deletes an app with its machines. A kill in between leaves the app marked as going, and the
    /// next start goes on.
    pub async fn app_delete(&self, name: &AppName, force: bool) -> ControlResult<()> {
        self.app(name).await?;
        let machines = self.machine_records(name, false).await?;
        if !force && machines.iter().any(|machine| machine.state == atoll_model::MachineState::Started) {
            return Err(ControlError::new(
                Kind::Precondition,
                format!("app {name} has running machines: stop them first, or use force"),
            ));
        }
        let app = name.clone();
        self.store
            .write(move |tx| {
                let app = app.clone();
                async move { tx.app_set_status(&app, AppStatus::Deleting).await }
            })
            .await?;
        self.app_finish_deletion(name).await
    }

    /// The rest of a deletion that was recorded.
    pub(crate) async fn app_finish_deletion(&self, name: &AppName) -> ControlResult<()> {
        self.rows.delete(RowKey::App(name.clone()));
        for machine in self.machine_records(name, false).await? {
            self.machine_destroy_recorded(&machine).await?;
        }
        let rests_until = self.rests_until();
        self.store
            .write(|tx| async move {
                tx.addresses_release(name, rests_until).await?;
                tx.app_delete(name).await
            })
            .await?;
        Ok(())
    }

    pub async fn app_set_regions(
        &self,
        name: &AppName,
        primary: Option<RegionCode>,
        regions: Vec<RegionCode>,
    ) -> ControlResult<App> {
        let app = name.clone();
        self.store
            .write(move |tx| {
                let (app, regions) = (app.clone(), regions.clone());
                async move { tx.app_set_regions(&app, primary, &regions).await }
            })
            .await?;
        self.app_publish(name).await?;
        self.app(name).await
    }

    /// All machines of an app as control's records have them.
    pub async fn machine_records(&self, app: &AppName, include_destroyed: bool) -> ControlResult<Vec<MachineRecord>> {
        let filter = MachineFilter { app: Some(app.clone()), include_destroyed, ..MachineFilter::default() };
        self.machine_records_by(filter).await
    }

    pub async fn machine_records_by(&self, filter: MachineFilter) -> ControlResult<Vec<MachineRecord>> {
        let mut machines = Vec::new();
        let mut page = PageRequest::default();
        loop {
            let (filter, request) = (filter.clone(), page.clone());
            let answer = self
                .store
                .read(move |tx| {
                    let (filter, request) = (filter.clone(), request.clone());
                    async move { tx.machine_list(&filter, &request).await }
                })
                .await?;
            machines.extend(answer.items);
            match answer.next {
                Some(cursor) => page.cursor = Some(cursor),
                None => return Ok(machines),
            }
        }
    }

    /// One machine's record, of this app.
    pub async fn machine_record(&self, app: &AppName, id: MachineId) -> ControlResult<MachineRecord> {
        let not_found = || ControlError::not_found(format!("machine not found: {id}"));
        let record = self.store.read(move |tx| async move { tx.machine_fetch(id).await }).await;
        match record {
            Ok(record) if record.app == *app => Ok(record),
            Ok(_) => Err(not_found()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(not_found()),
            Err(error) => Err(error.into()),
        }
    }
}
