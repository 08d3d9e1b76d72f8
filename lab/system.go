package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os/exec"

	"github.com/assay-project/assay/lab/debian"
	"github.com/assay-project/assay/lab/guest"
	"github.com/assay-project/assay/lab/host"
)

// copyDebian makes the tree of a machine of its own: owners and modes are kept as far as the caller may.
func copyDebian(ctx context.Context, cfg Config, tree string) error {
	folder, err := debian.Fetch(ctx, cfg.Cache, cfg.Progress)
	if err != nil {
		return err
	}
	if _, err := host.RunTool(exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", folder+"/.", tree)); err != nil {
		return fmt.Errorf("copy the Debian system: %w", err)
	}
	return nil
}

// labUnit runs the lab's server under systemd. It begins as soon as services may; its errors are for the console, where the host looks.
const labUnit = `[Unit]
Description=The lab's exec service

[Service]
ExecStart=` + guest.ServerPath + ` ` + guest.ServeArg + `
StandardOutput=journal+console
StandardError=journal+console
KillMode=process

[Install]
WantedBy=multi-user.target
`

// debianFiles make a Debian system a lab machine. A machine with an id of its own is no first boot, which would ask who it is.
func debianFiles(cfg Config) []File {
	id := make([]byte, 16)
	rand.Read(id)
	const units = "/etc/systemd/system/"
	return []File{
		{Path: guest.ServerPath, Mode: 0o755, Source: cfg.Init},
		{Path: units + "assay-lab.service", Mode: 0o644, Data: []byte(labUnit)},
		{Path: units + "multi-user.target.wants/assay-lab.service", Link: units + "assay-lab.service"},
		{Path: units + "serial-getty@ttyS0.service", Link: "/dev/null"},
		{Path: "/etc/machine-id", Mode: 0o444, Data: []byte(hex.EncodeToString(id) + "\n")},
		{Path: "/etc/hostname", Mode: 0o644, Data: []byte("lab\n")},
		{Path: "/etc/hosts", Mode: 0o644, Data: []byte(hosts)},
	}
}
