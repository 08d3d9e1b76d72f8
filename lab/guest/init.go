package guest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Grace periods of a shutdown.
const (
	termGrace = 3 * time.Second
	killGrace = 500 * time.Millisecond
)

// Init is PID 1 on the ext4 root. It mounts what programs expect, keeps one child that does the work (ServeArg) and buries orphans, which is why the
// child is a process of its own: a PID 1 that waits for everybody cannot wait for its own commands too. SIGTERM reboots and SIGUSR2 powers
// off, as busybox's reboot and poweroff ask. It returns only with an error.
func Init(log *slog.Logger) error {
	// Apart, so that dying children cannot crowd out a shutdown.
	power, children := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(power, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	signal.Notify(children, syscall.SIGCHLD)
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
	for _, m := range volatileFilesystems() {
		if err := m.mount(); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2"} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link %s: %w", link, err)
		}
	}
	for {
		child, err := startServer()
		if err != nil {
			return err
		}
		if err := bury(child, power, children); err != nil {
			return err
		}
		log.Error("the lab's server ended; starting it again", "pid", child)
		time.Sleep(time.Second)
	}
}

// ServeArg is the argument with which Init starts itself as the server.
const ServeArg = "serve"

func startServer() (int, error) {
	child, err := syscall.ForkExec(InitPath, []string{InitPath, ServeArg}, &syscall.ProcAttr{
		Dir: "/", Env: []string{searchPath, "HOME=/root"}, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start server: %w", err)
	}
	return child, nil
}

// bury reaps children until the server is among them, and ends the machine when a signal asks for it.
func bury(server int, power, children <-chan os.Signal) error {
	for {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid == server {
				return nil
			}
			if pid <= 0 || err != nil {
				break
			}
		}
		select {
		case <-children:
		case sig := <-power:
			if sig == syscall.SIGTERM {
				return shutDown(unix.LINUX_REBOOT_CMD_RESTART)
			}
			return shutDown(unix.LINUX_REBOOT_CMD_POWER_OFF)
		}
	}
}

// shutDown is orderly: the kernel tells the TPM, and the disk holds everything. A power cut is the host's to make.
func shutDown(cmd int) error {
	// Signals to -1 spare the caller.
	syscall.Kill(-1, syscall.SIGTERM)
	for end := time.Now().Add(termGrace); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); errors.Is(err, syscall.ECHILD) {
			break
		}
	}
	syscall.Kill(-1, syscall.SIGKILL)
	time.Sleep(killGrace)
	unix.Sync()
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		// Still synced; the journal does the rest.
		fmt.Fprintln(os.Stderr, "remount / read-only:", err)
	}
	return unix.Reboot(cmd)
}

// PowerOff ends a machine whose init cannot go on.
func PowerOff() {
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// Serve is the working child of Init: modules, the TPM's clock, early services, network, the exec service, the other services. It returns only with an error.
func Serve(ctx context.Context, log *slog.Logger) error {
	if err := ownRoot("/"); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("lab")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := LoadModules(ModulesPath); err != nil {
		return err
	}
	services, err := ReadServices(ServicesPath)
	if err != nil {
		return err
	}
	cards, err := readCards(CardsPath)
	if err != nil {
		return err
	}
	go KeepClock(ctx, log)
	start := func(afterNetwork bool) {
		for _, s := range services {
			if s.AfterNetwork == afterNetwork {
				go Keep(ctx, s, log)
			}
		}
	}
	start(false)
	if err := RaiseNetwork(cards); err != nil {
		return err
	}
	key, err := readKey(KeyPath)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", net.JoinHostPort(ControlAddr, strconv.Itoa(ExecPort)))
	if err != nil {
		return fmt.Errorf("exec service: %w", err)
	}
	start(true)
	log.Info("ready")
	return (&Server{Key: key, Power: askInit}).Run(l)
}

// askInit has PID 1 end the machine a moment later, so that the answer still reaches the client.
func askInit(op string) error {
	sig := syscall.SIGTERM
	if op == opPowerOff {
		sig = syscall.SIGUSR2
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil { // sd_booted(3); the signals are those of systemd(1)
		const realTimeMin = 34 // SIGRTMIN as the C library has it
		sig = realTimeMin + 5
		if op == opPowerOff {
			sig = realTimeMin + 4
		}
	}
	time.AfterFunc(200*time.Millisecond, func() { syscall.Kill(1, sig) })
	return nil
}

func readKey(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) < 16 {
		return nil, fmt.Errorf("read key: %s holds no key", path)
	}
	return key, nil
}

// ownRoot gives root every file that is still owned by the user who made the image: mkfs.ext4 -d copies owners, and the lab needs no root to make
// a machine. The init itself comes last, so that an interrupted run is repeated.
func ownRoot(root string) error {
	self := filepath.Join(root, InitPath)
	info, err := os.Lstat(self)
	if err != nil {
		return fmt.Errorf("own root: %w", err)
	}
	image, ok := info.Sys().(*syscall.Stat_t)
	if !ok || image.Uid == 0 {
		return nil
	}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		switch {
		case !ok || st.Dev != image.Dev:
			return skipTree(entry)
		case st.Uid != image.Uid || path == self:
			return nil
		}
		return os.Lchown(path, 0, 0)
	})
	if err != nil {
		return fmt.Errorf("own root: %w", err)
	}
	return os.Lchown(self, 0, 0)
}

func skipTree(entry fs.DirEntry) error {
	if entry.IsDir() {
		return filepath.SkipDir
	}
	return nil
}
