//! Ways to users' devices that enter here: a route to each through their link, in the main table as those to
//! this host's machines are.

use std::net::Ipv6Addr;

use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use rustix::io::Errno;

use super::{RouteError, Routes, failed, unless};

/// The devices' link, while it is there.
pub struct DeviceRoutes {
    routes: Routes,
    index: u32,
}

impl DeviceRoutes {
    /// The link goes up.
    ///
    /// # Errors
    /// If there is no such link, or the kernel refuses.
    pub async fn open(routes: Routes) -> Result<Self, RouteError> {
        let link = &routes.place.devices;
        let action = format!("find the interface {link}");
        let index = routes.link_index(link).await.map_err(failed(&action))?;
        let index = index.ok_or_else(|| RouteError { action, source: std::io::ErrorKind::NotFound.into() })?;
        let up = LinkUnspec::new_with_index(index).up().build();
        let setting = routes.handle.link().set(up).execute().await;
        setting.map_err(failed(format!("set the interface {link} up")))?;
        Ok(Self { routes, index })
    }

    /// # Errors
    /// If the kernel refuses.
    pub async fn add(&self, device: Ipv6Addr) -> Result<(), RouteError> {
        let route = self.to(device).output_interface(self.index).build();
        self.routes.replace(route).await.map_err(failed(format!("lead to the device {device}")))
    }

    /// No error if there is none.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn remove(&self, device: Ipv6Addr) -> Result<(), RouteError> {
        let route = self.to(device).output_interface(self.index).build();
        let removing = self.routes.handle.route().del(route).execute().await;
        unless(Errno::SRCH, removing).map_err(failed(format!("lead to the device {device} no more")))
    }

    fn to(&self, device: Ipv6Addr) -> RouteMessageBuilder<Ipv6Addr> {
        RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(device, 128)
    }
}
