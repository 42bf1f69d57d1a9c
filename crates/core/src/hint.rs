/// What the user can do about an error. The command line prints it as a last line, `hint: ...`.
pub trait Hint: std::error::Error {
    /// One sentence in the imperative, or `None` where nothing useful can be said.
    fn hint(&self) -> Option<String>;
}
