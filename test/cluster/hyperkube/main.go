// Command hyperkube is a whole Kubernetes cluster in one program: the API server, the controller manager, the scheduler, the kubelet,
// the service proxy, kubectl, and the etcd that stores it all. The name it is called by chooses which of them it is; package lab/cluster
// makes the symbolic links. One program builds in a third of the time that seven would take, and shares one copy of everything.
//
// It trusts what each component trusts and decides nothing. It is for tests: the real components, unchanged, at the versions in go.mod.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // the clients' metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	os.Exit(run(os.Args))
}

// run is the component that args[0] names, and returns its exit status.
func run(args []string) int {
	commands := map[string]func() *cobra.Command{
		"kube-apiserver":          apiserver.NewAPIServerCommand,
		"kube-controller-manager": controllers.NewControllerManagerCommand,
		"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kube-proxy":              proxy.NewProxyCommand,
		"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	}
	name := filepath.Base(args[0])
	if command, ok := commands[name]; ok {
		return cli.Run(command())
	}
	switch name {
	case "etcd":
		etcdmain.Main(args)
		return 0
	case "kubectl":
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	names := []string{"etcd", "kubectl"}
	for known := range commands {
		names = append(names, known)
	}
	slices.Sort(names)
	fmt.Fprintf(os.Stderr, "hyperkube: %q is no component: call it by a link named one of %s\n", name, strings.Join(names, ", "))
	return 2
}
