"""The demo: real photographs and views of them (`photographs`), a cluster that finds them again (`run`), the
contact sheet (`sheet`), and what it prints (`command`)."""
