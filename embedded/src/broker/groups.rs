//! Consumer groups over a restart.

use nisshi_storage::{ArcDynStorage, GroupState, Storage as _, UpdateError};

/// Removes the members of every group, keeping its generation and its commits.
///
/// nisshi stores the members. At start none of them is connected, and a group that still had
/// them would make the first new member wait until their sessions have timed out.
pub(super) async fn forget_members(storage: &ArcDynStorage) -> Result<(), nisshi_storage::Error> {
    for group in storage.list_groups().await? {
        let Some((mut detail, version)) = storage.group_with_version(&group.name).await? else {
            continue;
        };
        detail.members.clear();
        detail.rebalance = Box::default();
        detail.state =
            GroupState::Forming { protocol_type: detail.state.protocol_type(), protocol_name: None, leader: None };
        match storage.update_group(&group.name, detail, Some(version)).await {
            Ok(_) => {}
            Err(UpdateError::Error(error)) => return Err(error),
            Err(error) => return Err(nisshi_storage::Error::Message(format!("{error:?}"))),
        }
    }
    Ok(())
}
