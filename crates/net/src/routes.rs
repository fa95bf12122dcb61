//! This host's routes to private addresses: machines' packets, which the packet filter marks, find the way
//! into the mesh in a table of their own. Where the mesh is down they are dropped in silence, so that
//! connections outlive its restart; into the internet they never go.
//!
//! ```text
//!   marked   → main, but only its routes to whole networks and machines (those of this host)
//!   marked   → <table>:  fdaa::/16 into the mesh, else a black hole
//!   from this server's own address to other servers' → <table>
//! ```

mod devices;

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Error, Handle, IpVersion, LinkUnspec, RouteMessageBuilder};
use rustix::io::Errno;

use atoll_model::address::NODES_PREFIX;

use crate::Place;

pub use devices::DeviceRoutes;

/// Where our rules stand among others': before the main table's, in their order.
const FIRST_RULE: u32 = 5_210;
/// Routes of the main table that lead further than this are no ways to machines.
const SUPPRESSED: u32 = 47;
/// All private addresses.
const PRIVATE: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, 0), 16);
/// The way into the mesh, and what is left where there is none.
const INTO_THE_MESH: u32 = 100;
const NOWHERE: u32 = 4_096;
const LOOPBACK: u32 = 1;

/// What could not be done.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct RouteError {
    action: String,
    source: io::Error,
}

fn failed(action: impl Into<String>) -> impl FnOnce(Error) -> RouteError {
    let action = action.into();
    move |error| RouteError { action, source: to_io(error) }
}

fn to_io(error: Error) -> io::Error {
    match error {
        Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

/// No error where it is so already.
fn unless(known: Errno, result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::NetlinkError(message)) if message.raw_code() == -known.raw_os_error() => Ok(()),
        other => other,
    }
}

/// The routes of the network namespace in which they were opened.
#[derive(Clone)]
pub struct Routes {
    handle: Handle,
    place: Place,
}

impl Routes {
    /// Must be called within an async runtime.
    ///
    /// # Errors
    /// If the kernel does not talk about routes.
    pub fn open(place: &Place) -> Result<Self, RouteError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| RouteError { action: "talk to the kernel about routes".to_owned(), source })?;
        tokio::spawn(connection);
        Ok(Self { handle, place: place.clone() })
    }

    /// Gives the loopback this server's address and makes the table, which leads nowhere yet. What is there
    /// already stays.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn prepare(&self) -> Result<(), RouteError> {
        let Place { address, mark, .. } = self.place;
        let adding = self.handle.address().add(LOOPBACK, address.into(), 128).execute().await;
        unless(Errno::EXIST, adding).map_err(failed(format!("give this host the address {address}")))?;
        let nowhere = self.to_private().priority(NOWHERE).kind(RouteType::BlackHole).build();
        self.replace(nowhere).await.map_err(failed("make the table of private routes"))?;
        for (priority, rule) in (FIRST_RULE..).zip(rules(address, mark)) {
            let mut request = self.handle.rule().add().v6();
            *request.message_mut() = rule;
            let adding = request.priority(priority).execute().await;
            unless(Errno::EXIST, adding).map_err(failed("add a rule for private addresses"))?;
        }
        Ok(())
    }

    /// Leads private addresses into the mesh's link, which goes up.
    ///
    /// # Errors
    /// If there is no such link, or the kernel refuses.
    pub async fn lead_into_link(&self) -> Result<(), RouteError> {
        let Place { link, .. } = &self.place;
        let action = || format!("lead private addresses into {link}");
        let index = self.link_index(link).await.map_err(failed(action()))?;
        let index = index.ok_or_else(|| RouteError { action: action(), source: io::ErrorKind::NotFound.into() })?;
        self.handle
            .link()
            .set(LinkUnspec::new_with_index(index).up().build())
            .execute()
            .await
            .map_err(failed(action()))?;
        let route = self.to_private().priority(INTO_THE_MESH).output_interface(index).build();
        self.replace(route).await.map_err(failed(action()))
    }

    /// Removes all that was made, and the links.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn remove(&self) -> Result<(), RouteError> {
        for link in [&self.place.link, &self.place.devices] {
            if let Some(index) = self.link_index(link).await.map_err(failed(format!("look for {link}")))? {
                self.handle.link().del(index).execute().await.map_err(failed(format!("remove {link}")))?;
            }
        }
        self.remove_rules().await.map_err(failed("remove the rules for private addresses"))?;
        self.remove_routes().await.map_err(failed("remove the private routes"))?;
        self.remove_address().await.map_err(failed("remove this host's private address"))
    }

    fn to_private(&self) -> RouteMessageBuilder<Ipv6Addr> {
        RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(PRIVATE.0, PRIVATE.1).table_id(self.place.mark)
    }

    async fn replace(&self, route: RouteMessage) -> Result<(), Error> {
        self.handle.route().add(route).replace().execute().await
    }

    async fn link_index(&self, link: &str) -> Result<Option<u32>, Error> {
        let mut found = self.handle.link().get().match_name(link.to_owned()).execute();
        match found.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(Error::NetlinkError(message)) if message.raw_code() == -Errno::NODEV.raw_os_error() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn remove_rules(&self) -> Result<(), Error> {
        let mark = self.place.mark;
        let ours = |rule: &RuleMessage| {
            let by = |attribute: &RuleAttribute| {
                *attribute == RuleAttribute::FwMark(mark) || *attribute == RuleAttribute::Table(mark)
            };
            rule.attributes.iter().any(by)
        };
        let all: Vec<RuleMessage> = self.handle.rule().get(IpVersion::V6).execute().try_collect().await?;
        for rule in all.into_iter().filter(ours) {
            unless(Errno::NOENT, self.handle.rule().del(rule).execute().await)?;
        }
        Ok(())
    }

    async fn remove_routes(&self) -> Result<(), Error> {
        let all = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let all: Vec<RouteMessage> = self.handle.route().get(all).execute().try_collect().await?;
        let table = RouteAttribute::Table(self.place.mark);
        for route in all.into_iter().filter(|route| route.attributes.contains(&table)) {
            // The one through the link went with it.
            unless(Errno::SRCH, self.handle.route().del(route).execute().await)?;
        }
        Ok(())
    }

    async fn remove_address(&self) -> Result<(), Error> {
        let own = AddressAttribute::Address(IpAddr::V6(self.place.address));
        let all: Vec<_> = self.handle.address().get().set_link_index_filter(LOOPBACK).execute().try_collect().await?;
        for address in all.into_iter().filter(|address| address.attributes.contains(&own)) {
            unless(Errno::ADDRNOTAVAIL, self.handle.address().del(address).execute().await)?;
        }
        Ok(())
    }
}

/// In the order in which they are asked.
fn rules(address: Ipv6Addr, mark: u32) -> [RuleMessage; 3] {
    let rule = |table: u32, attributes: Vec<RuleAttribute>| {
        let mut rule = RuleMessage::default();
        rule.header.family = AddressFamily::Inet6;
        rule.header.action = RuleAction::ToTable;
        rule.attributes = attributes;
        rule.attributes.push(RuleAttribute::Table(table));
        rule
    };
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    let marked = RuleAttribute::FwMark(mark);
    let nodes = address.to_bits() & (u128::MAX << (128 - NODES_PREFIX));
    let mut own = rule(mark, vec![RuleAttribute::Source(address.into())]);
    own.attributes.push(RuleAttribute::Destination(Ipv6Addr::from_bits(nodes).into()));
    (own.header.src_len, own.header.dst_len) = (128, NODES_PREFIX);
    [rule(main, vec![marked.clone(), RuleAttribute::SuppressPrefixLen(SUPPRESSED)]), rule(mark, vec![marked]), own]
}
