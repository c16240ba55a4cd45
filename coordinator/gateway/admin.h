/* coordinator/gateway/admin.h: caloris-gateway admin backup|check|compact. */
#ifndef CALORIS_GATEWAY_ADMIN_H
#define CALORIS_GATEWAY_ADMIN_H

struct caloris_program;

/* argv[0] is "admin". The gateway's own program owns the keys of the configuration file. Returns
 * the exit code. */
int admin_main(int argc, char **argv, const struct caloris_program *gateway);

#endif
