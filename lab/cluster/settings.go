package cluster

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/assay-project/assay/lab/guest"
)

// An installation says where a node finds its programs and its configuration, in its own file system.
type installation struct {
	conf       string
	kubernetes string // folder of hyperkube's links
	containerd string // folder of containerd, its shim and ctr
	network    string // folder of the CNI plugins
}

const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Where Debian's containernetworking-plugins puts its programs.
const hostPlugins = "/usr/lib/cni"

var (
	nativeLayout  = installation{conf: insideDir + "/" + confName, kubernetes: insideDir + "/hyperkube", containerd: insideDir + "/containerd", network: hostPlugins}
	machineLayout = installation{conf: "/etc/kubernetes", kubernetes: "/usr/bin", containerd: "/usr/bin", network: hostPlugins}
)

// The names of services, for Restart, Stop and Start.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Containerd        = "containerd"
	Kubelet           = "kubelet"
	KubeProxy         = "kube-proxy"
)

const (
	containerdSocket = "/run/containerd/containerd.sock"
	pauseImage       = "assay.test/pause:1"
	// volumePlugins stands in for a folder in /usr, which is the host's, and which two components would make.
	volumePlugins = "/var/lib/kubelet/volume-plugins"
)

// service makes a service of a program that one part brought.
func (l installation) service(folder, name string, args ...string) guest.Service {
	path := "PATH=" + l.containerd + ":" + systemPath
	return guest.Service{Name: name, Args: append([]string{filepath.Join(folder, name)}, args...), Env: []string{path, "HOME=/run"}, AfterNetwork: true}
}

func (l installation) file(name string) string { return filepath.Join(l.conf, name) }

// workerServices are what runs on every node.
func (l installation) workerServices(name, address string, joins bool) []guest.Service {
	kubelet := []string{
		"--config", l.file("kubelet.json"), "--kubeconfig", l.file("kubelet.kubeconfig"), "--hostname-override", name, "--node-ip", address, "--v", "2",
	}
	if joins {
		// The kubelet asks for its own certificate with the token and writes the kubeconfig.
		kubelet[3] = "/var/lib/kubelet/kubeconfig"
		kubelet = append(kubelet, "--bootstrap-kubeconfig", l.file("bootstrap.kubeconfig"), "--cert-dir", "/var/lib/kubelet/pki")
	}
	return []guest.Service{
		l.service(l.containerd, Containerd, "--config", l.file("containerd.toml")),
		l.service(l.kubernetes, Kubelet, kubelet...),
		// Connection tracking limits are the whole kernel's.
		l.service(l.kubernetes, KubeProxy, "--kubeconfig", l.file("proxy.kubeconfig"), "--hostname-override", name, "--proxy-mode", "iptables",
			"--cluster-cidr", podRange, "--conntrack-max-per-core", "0", "--conntrack-min", "0", "--conntrack-tcp-timeout-established", "0s",
			"--conntrack-tcp-timeout-close-wait", "0s"),
	}
}

// controlServices are the control plane.
func (l installation) controlServices(address string) []guest.Service {
	const etcdURL = "http://127.0.0.1:2379"
	return []guest.Service{
		// What a cluster of the lab holds ends with it, so its disk need not be waited for.
		l.service(l.kubernetes, Etcd, "--data-dir", "/var/lib/etcd", "--unsafe-no-fsync", "--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
			"--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "warn"),
		l.service(l.kubernetes, APIServer, "--etcd-servers", etcdURL, "--secure-port", fmt.Sprint(apiPort), "--bind-address", "0.0.0.0", "--advertise-address", address,
			"--tls-cert-file", l.file("apiserver.crt"), "--tls-private-key-file", l.file("apiserver.key"), "--client-ca-file", l.file(caCertFile),
			"--service-account-key-file", l.file("accounts.crt"), "--service-account-signing-key-file", l.file("accounts.key"),
			"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
			"--kubelet-client-certificate", l.file("apiserver-kubelet.crt"), "--kubelet-client-key", l.file("apiserver-kubelet.key"),
			"--kubelet-certificate-authority", l.file(caCertFile), "--kubelet-preferred-address-types", "InternalIP",
			"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction", "--enable-bootstrap-token-auth", "--allow-privileged",
			"--service-cluster-ip-range", serviceRange, "--v", "1"),
		l.service(l.kubernetes, ControllerManager, "--kubeconfig", l.file("controllers.kubeconfig"), "--service-account-private-key-file", l.file("accounts.key"),
			"--root-ca-file", l.file(caCertFile), "--cluster-signing-cert-file", l.file(caCertFile), "--cluster-signing-key-file", l.file(caKeyFile),
			"--use-service-account-credentials", "--leader-elect=false", "--bind-address", "127.0.0.1", "--flex-volume-plugin-dir", volumePlugins, "--v", "1"),
		l.service(l.kubernetes, Scheduler, "--kubeconfig", l.file("scheduler.kubeconfig"), "--leader-elect=false", "--bind-address", "127.0.0.1", "--v", "1"),
	}
}

// kubeletConfig is a KubeletConfiguration.
func (l installation) kubeletConfig() ([]byte, error) {
	return json.MarshalIndent(map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + containerdSocket, "cgroupDriver": "cgroupfs",
		// Hosts with version 1 still serve as test machines.
		"failCgroupV1":   false,
		"authentication": map[string]any{"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true}, "x509": map[string]any{"clientCAFile": l.file(caCertFile)}},
		"authorization":  map[string]any{"mode": "Webhook"},
		"tlsCertFile":    l.file("kubelet-server.crt"), "tlsPrivateKeyFile": l.file("kubelet-server.key"),
		"clusterDomain": "cluster.local", "clusterDNS": []string{dnsService}, "resolvConf": l.file("resolv.conf"),
		"volumePluginDir": volumePlugins,
		// Raising either limit needs CAP_SYS_RESOURCE, which a container's root may lack.
		"oomScoreAdj": 0, "maxOpenFiles": 10000,
		"failSwapOn": false, "imageGCHighThresholdPercent": 100, "nodeStatusUpdateFrequency": "5s", "runtimeRequestTimeout": "5m",
		"evictionHard": map[string]string{"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
	}, "", "  ")
}

//go:embed containerd.toml
var containerdTemplate string

// containerdConfig is containerd's own. It must name every folder whose default is outside /run and /var.
func (l installation) containerdConfig() []byte {
	return []byte(strings.NewReplacer("@SOCKET@", containerdSocket, "@PAUSE@", pauseImage, "@PLUGINS@", l.network, "@NETWORKS@", l.file("cni"), "@REGISTRIES@", l.file(registriesDir)).Replace(containerdTemplate))
}

// registriesDir holds a folder for each registry that containerd speaks to in another way than it would by itself.
const registriesDir = "certs.d"

// plainRegistry has containerd take what it takes from a registry without TLS: the file's name below the configuration folder, and its content.
func plainRegistry(registry string) (name string, data []byte) {
	const form = "server = %[1]q\n\n[host.%[1]q]\ncapabilities = [\"pull\", \"resolve\"]\n"
	return registriesDir + "/" + registry + "/hosts.toml", fmt.Appendf(nil, form, "http://"+registry)
}

// networkConfig is the node's pod network: a bridge. Pods keep their address on the way to other nodes.
func networkConfig(podCIDR string) ([]byte, error) {
	return json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0", "name": "lab",
		"plugins": []any{
			map[string]any{
				"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
				"ipam": map[string]any{
					"type": "host-local", "ranges": []any{[]any{map[string]string{"subnet": podCIDR}}}, "routes": []any{map[string]string{"dst": "0.0.0.0/0"}},
				},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	}, "", "  ")
}
