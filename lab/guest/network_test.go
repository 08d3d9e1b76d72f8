package guest

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/internal/need"
)

// elsewhere runs a function on a thread with an empty network of its own, which ends with it.
func elsewhere(t *testing.T, run func()) {
	t.Helper()
	need.Root(t)
	need.Program(t, "iproute2", "ip")
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and the network with it
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			run()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// ip runs the program of that name on the calling thread's network.
func ip(t *testing.T, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Errorf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}

// cards makes a machine's network cards, as pairs whose other ends are up.
func cards(t *testing.T, macs ...string) {
	t.Helper()
	for i, mac := range macs {
		name := fmt.Sprintf("card%d", i)
		ip(t, "link add name "+name+" address "+mac+" type veth peer name "+name+"-peer")
		ip(t, "link set "+name+"-peer up")
	}
}

const (
	furtherMAC = "52:54:00:80:00:01"
	idleMAC    = "52:54:00:80:00:02"
)

// TestRaiseNetwork: each card gets its address by its MAC, one without an address stays down, and the last gateway that is named is the default route.
func TestRaiseNetwork(t *testing.T) {
	further := Card{MAC: furtherMAC, Address: "10.98.1.2/16"}
	routed := further
	routed.Gateway = "10.98.0.1"
	for name, c := range map[string]struct {
		further []Card
		route   string
	}{
		"as it is":       {nil, "default via 10.0.2.2 dev card0"},
		"a further card": {[]Card{further, {MAC: idleMAC}}, "default via 10.0.2.2 dev card0"},
		"its gateway":    {[]Card{routed, {MAC: idleMAC}}, "default via 10.98.0.1 dev card2"},
	} {
		elsewhere(t, func() {
			cards(t, MachineMAC, strings.ToUpper(ControlMAC), furtherMAC, idleMAC)
			for range 2 { // the second time everything is there
				if err := RaiseNetwork(c.further); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			addresses := ip(t, "-o -4 address show")
			want := []string{"lo    inet 127.0.0.1/8", "card0    inet 10.0.2.15/24", "card1    inet 10.0.3.15/24"}
			if c.further != nil {
				want = append(want, "card2    inet 10.98.1.2/16")
			}
			for _, text := range want {
				if !strings.Contains(addresses, text) {
					t.Errorf("%s: no %q in\n%s", name, text, addresses)
				}
			}
			if got := strings.TrimSpace(ip(t, "route show default")); got != c.route {
				t.Errorf("%s: route %q, want %q", name, got, c.route)
			}
			if state := ip(t, "-o link show card3"); strings.Contains(state, ",UP") {
				t.Errorf("%s: a card without an address is up: %s", name, state)
			}
		})
	}
}

func TestRaiseNetworkRefuses(t *testing.T) {
	for want, further := range map[string]Card{
		"card " + furtherMAC + ": netip.ParsePrefix": {MAC: furtherMAC, Address: "10.98.1.2"},
		"address of card2: ":                         {MAC: furtherMAC, Address: "fd00::1/64"},
		"default route: ParseAddr":                   {MAC: furtherMAC, Address: "10.98.1.2/24", Gateway: "there"},
		"default route: network is unreachable":      {MAC: furtherMAC, Address: "10.98.1.2/24", Gateway: "192.0.2.1"},
	} {
		elsewhere(t, func() {
			cards(t, MachineMAC, ControlMAC, furtherMAC)
			if err := RaiseNetwork([]Card{further}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", further, err, want)
			}
		})
	}
}
