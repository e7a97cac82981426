"""The demo: real photographs and views of them (`photographs`), a cluster that finds them again (`run`), and
the contact sheet (`sheet`)."""
