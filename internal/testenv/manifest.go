package testenv

import "fmt"

// PodWithAccount is the manifest of a Pod with the label app=<name>, and of the ServiceAccount of its name that it has.
func PodWithAccount(namespace, name string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: ServiceAccount
metadata: {name: %[2]s, namespace: %[1]s}
---
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[2]s}}
spec: {serviceAccountName: %[2]s}
`, namespace, name)
}
