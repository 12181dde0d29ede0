//! How another part of the program asks the controller for one Pod, and waits.

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout_at,
};

/// Asks a controller for one Pod.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::Sender<Inquiry>);

/// What is asked of the controller.
#[derive(Debug)]
pub struct Inquiry {
    /// The UID by which the runtime knows the Pod.
    pub(crate) uid: String,
    pub(crate) answer: oneshot::Sender<Result<(), String>>,
}

/// The receiving end of a [`Handle`].
pub type Inquiries = mpsc::Receiver<Inquiry>;

/// How many Pods may be asked for at a time.
const MAX_INQUIRIES: usize = 64;

impl Handle {
    /// A handle, and what [`run`] answers it with.
    pub fn new() -> (Self, Inquiries) {
        let (sender, receiver) = mpsc::channel(MAX_INQUIRIES);
        (Self(sender), receiver)
    }

    /// Waits until a Pod has the interfaces that its annotation requests. Once it had them in its present sandbox, it is not
    /// waited for again.
    ///
    /// # Errors
    ///
    /// What is missing at the deadline, and why.
    pub async fn ensure(&self, uid: &str, deadline: std::time::Instant) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.0.send(Inquiry { uid: uid.to_owned(), answer }).await.ok()?;
            answered.await.ok()
        };
        match timeout_at(deadline.into(), asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err("the controller of networks has ended".into()),
            Err(_) => {
                Err("the pod's networks are still being attached: the container is created when they are there".into())
            }
        }
    }
}
