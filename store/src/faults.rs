//! Named points of the seal at which a test makes the store fail. Outside of tests there is nothing here.
//!
//! A step can fail before it did anything, and after it did everything: what a caller of a file system or of Delta sees
//! as the same error.

use crate::StoreError;

/// A step of the seal, in commit order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Bodies,
    Rows,
    Ids,
    SyncFiles,
    Commit,
    SyncCommit,
    Checkpoint,
    Publish,
    Trim,
    Text,
}

#[cfg(test)]
impl Step {
    pub(crate) const ALL: [Step; 10] = [
        Step::Bodies,
        Step::Rows,
        Step::Ids,
        Step::SyncFiles,
        Step::Commit,
        Step::SyncCommit,
        Step::Checkpoint,
        Step::Publish,
        Step::Trim,
        Step::Text,
    ];
}

/// The fault that is set, if any.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    #[cfg(test)]
    set: std::sync::Mutex<Option<Fault>>,
}

#[cfg(test)]
#[derive(Debug, Clone, Copy)]
struct Fault {
    step: Step,
    persisted: bool,
    stays: bool,
}

#[cfg(test)]
impl Faults {
    /// The next time `step` is reached it fails: after its work when `persisted`, else before.
    pub(crate) fn set(&self, step: Step, persisted: bool) {
        *self.set.lock().unwrap() = Some(Fault { step, persisted, stays: false });
    }

    /// Every time `step` is reached it fails, until [`Faults::clear`].
    pub(crate) fn stick(&self, step: Step) {
        *self.set.lock().unwrap() = Some(Fault { step, persisted: false, stays: true });
    }

    pub(crate) fn clear(&self) {
        *self.set.lock().unwrap() = None;
    }

    /// Whether a fault still waits to happen.
    pub(crate) fn is_set(&self) -> bool {
        self.set.lock().unwrap().is_some()
    }

    fn check(&self, step: Step, persisted: bool) -> Result<(), StoreError> {
        let mut set = self.set.lock().unwrap();
        if set.is_none_or(|fault| (fault.step, fault.persisted) != (step, persisted)) {
            return Ok(());
        }
        *set = set.filter(|fault| fault.stays);
        Err(StoreError::Fault(format!("{step:?}, persisted {persisted}")))
    }

    pub(crate) fn before(&self, step: Step) -> Result<(), StoreError> {
        self.check(step, false)
    }

    pub(crate) fn after(&self, step: Step) -> Result<(), StoreError> {
        self.check(step, true)
    }
}

#[cfg(not(test))]
impl Faults {
    #[inline]
    pub(crate) fn before(&self, _: Step) -> Result<(), StoreError> {
        Ok(())
    }

    #[inline]
    pub(crate) fn after(&self, _: Step) -> Result<(), StoreError> {
        Ok(())
    }
}
