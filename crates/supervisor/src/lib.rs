//! Pure plan from desired and observed containers, and its executor on the Docker API.
