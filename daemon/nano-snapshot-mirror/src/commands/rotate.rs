//! `rotate`: a key holder names the successor of a key. The item is signed with both keys.

use anyhow::{Context as _, Result, bail};
use service_kit::output::outln;
use service_kit::signals::Signals;
use snapshot_pointer::{ItemKind, RecordStore, SignedItem, Succession};
use snapshot_store::DataDir;

use crate::cli::RotateArgs;
use crate::commands::outcome::Outcome;
use crate::commands::publishing::{Publishing, Signer};
use crate::config::Config;

/// Signs and publishes that `--new` replaces `--old`.
pub(crate) async fn run(args: &RotateArgs, config: &Config, signals: &Signals) -> Result<Outcome> {
    let (old, new) = (Signer::new(&args.old)?, Signer::new(&args.new)?);
    let succession = Succession {
        old: old.authority,
        new: new.authority,
    };
    if old.authority == new.authority {
        bail!("--old and --new are the same key: make a new one with keygen");
    }
    let stream_salt = &args.salt.salt;
    let salt = stream_salt
        .next()
        .with_context(|| format!("the salt {stream_salt} is too long for a rotation"))?;
    outln!("old:       {}", succession.old);
    outln!("new:       {}", succession.new);
    if args.dry_run {
        outln!("would:     sign with both and publish under {salt}");
        return Ok(Outcome::Done);
    }
    let data = DataDir::create(config.data_dir.as_deref())?;
    let records = RecordStore::open(&data.streams())?;
    let publishing = Publishing {
        config,
        data: &data,
        records: &records,
        authority: old.authority,
        salt: &salt,
        kind: ItemKind::Succession,
        first: false,
    };
    let says = |item: &SignedItem| Succession::from_item(item).is_ok_and(|one| one == succession);
    let sign = |seq| {
        Ok(Succession::sign(
            &old.key()?,
            &new.key()?,
            stream_salt,
            seq,
        )?)
    };
    let published = tokio::select! {
        () = signals.stop.cancelled() => return Ok(Outcome::Interrupted),
        published = publishing.publish(says, sign) => published?,
    };
    outln!("seq:       {}", published.seq);
    outln!("nodes:     {}", published.nodes());
    Ok(Outcome::Done)
}
