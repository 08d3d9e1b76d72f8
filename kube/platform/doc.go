// Package platform makes what an AttestationPlatform asks for: authorities and certificates, the server with its volume and Service, the
// agents' DaemonSets and the device plugin's. It takes all of that away again when the chart is removed.
//
// What shall be there is a pure function of the object; it is written by server-side apply, so that fields of others stay theirs. The keys
// of the authorities lie in one Secret that only the operator reads. What runs inside the pods is left to the programs there.
package platform
