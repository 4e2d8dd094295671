//! `agent enroll 'picket1.…'`: makes this host an agent of the collector that printed the join string.

/// Arguments of `agent enroll`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:\n  agent enroll 'picket1.AAECAw…'")]
pub struct EnrollArgs {
    /// The join string, as `collector token` printed it
    pub join: String,
    /// Give up the present identity: its state is moved aside, not deleted
    #[arg(long)]
    pub force: bool,
    /// The host's name as the vendor will see it, instead of the system's
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
