//! Shared vocabulary: ids, specs and statuses. No I/O and no behaviour beyond checking a value when
//! it is made, so that whoever holds one of these types holds a valid one.
#![forbid(unsafe_code)]

mod configuration;
mod container;
mod desired;
mod device;
mod event;
mod finding;
mod id;
mod identity;
mod ingress;
mod join;
mod operation;
mod published;
mod reach;
mod service;
mod status;
mod tunnel;

pub use configuration::{ConfigChange, ConfigReport};
pub use container::{ContainerSpec, Limits, Mount, MountSource, Network, PortBinding, SecretFile};
pub use desired::{DesiredConfig, PublicName, ServiceAnnouncement};
pub use device::{DeviceGrant, DeviceInfo, DeviceQuery};
pub use event::{Event, EventKind, Subject, Timeline};
pub use finding::{Finding, Grade};
pub use id::{Generation, HostId, Hostname, InvalidName, Role, RoleUri, ServiceName};
pub use identity::IssuedIdentity;
pub use ingress::{BasicUser, ForwardAuth, IngressOptions, InvalidOption, is_target};
pub use join::{JoinCodeInfo, JoinCodeState};
pub use operation::{Credential, ExecInput, ExecQuery, LogsQuery, Output, Refusal, RunCommand, TerminalSize};
pub use published::{IngressReport, PublishedSite, RefusedService};
pub use reach::{Port, PortReach, PortService, Protocol, Seen};
pub use service::{
    AdminCommand, Check, DatabaseSpec, Expect, Expectation, Hook, HttpProbe, Probe, Run, ServiceSpec, Target, Unit,
    UpgradePath, UpgradeSpec, VolumeKind, VolumeSpec,
};
pub use status::{
    ContainerState, ContainerStatus, ControlStatus, Health, HostStatus, IdentityStatus, OutsideProof, ServiceStatus,
    Serving, TunnelState, TunnelStatus,
};
pub use tunnel::{DataPath, PathStep, TunnelPeer, TunnelReport};
