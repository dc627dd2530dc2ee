//! How many stored rows a query looked at.
//!
//! A row counts as looked at when it was read, or when a statistic or an index shows what it has to say (a count
//! needs no reading, a file of another day no opening). Two scans of one table look at the same rows, so they are not
//! added up.

use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricValue;
use threadline_store::Snapshot;

/// Rows that a query looked at. `ended`: its stream was read to the end.
pub(super) fn rows(asked: &LogicalPlan, ran: &Arc<dyn ExecutionPlan>, snapshot: &Snapshot, ended: bool) -> u64 {
    let total = snapshot.sealed_rows() + snapshot.tail_rows();
    if !reads_a_table(asked) {
        return 0;
    }
    if ended && !is_limited(ran) {
        return total;
    }
    let mut scans = Scans::default();
    scans.add(ran);
    (scans.files + scans.memory).min(total)
}

/// Whether any part of the query names one of our tables.
fn reads_a_table(plan: &LogicalPlan) -> bool {
    let mut reads = false;
    let looked = plan.apply_with_subqueries(|node| {
        reads |= matches!(node, LogicalPlan::TableScan(scan) if matches!(scan.table_name.table(), "records" | "links"));
        Ok(if reads { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    looked.is_ok() && reads
}

/// Whether anything may stop a scan before its end.
fn is_limited(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.fetch().is_some() || plan.children().into_iter().any(is_limited)
}

/// The most that one scan read of files, and of what is in memory.
#[derive(Default)]
struct Scans {
    files: u64,
    memory: u64,
}

impl Scans {
    fn add(&mut self, plan: &Arc<dyn ExecutionPlan>) {
        plan.children().into_iter().for_each(|child| self.add(child));
        let Some(scan) = plan.downcast_ref::<DataSourceExec>() else { return };
        match scan.data_source().downcast_ref::<MemorySourceConfig>() {
            Some(memory) => {
                let rows = memory.partitions().iter().flatten().map(|batch| batch.num_rows() as u64).sum();
                self.memory = self.memory.max(rows);
            }
            None => self.files = self.files.max(read(scan)),
        }
    }
}

fn read(scan: &DataSourceExec) -> u64 {
    let metrics = scan.metrics().unwrap_or_default();
    let rows = metrics.iter().map(|metric| match metric.value() {
        MetricValue::OutputRows(count) => count.value(),
        MetricValue::Count { name, count } if name == "pushdown_rows_pruned" => count.value(),
        MetricValue::PruningMetrics { name, pruning_metrics } if name == "page_index_rows_pruned" => {
            pruning_metrics.pruned()
        }
        _ => 0,
    });
    rows.sum::<usize>() as u64
}
