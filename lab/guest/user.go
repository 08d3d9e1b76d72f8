package guest

import (
	"fmt"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// asUser gives cmd the environment and the identity of a user of the machine; an empty name is the caller's own.
func asUser(cmd *exec.Cmd, name string) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	home := "/root"
	if name != "" {
		u, err := user.Lookup(name)
		if err != nil {
			return fmt.Errorf("run %s: %w", cmd.Path, err)
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return fmt.Errorf("run %s: user id of %s: %w", cmd.Path, name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return fmt.Errorf("run %s: group id of %s: %w", cmd.Path, name, err)
		}
		home = u.HomeDir
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	cmd.Env = []string{searchPath, "HOME=" + home}
	return nil
}
