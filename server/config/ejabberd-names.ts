/** Names that ejabberd 26.07 and its forerunners know, so that a foreign file's option is told from a slip of the pen. */

/** Top-level options that cannot differ between hosts. */
export const globalOptionNames: ReadonlySet<string> = words(`
  acme allow_contrib_modules api_permissions append_host_config auth_cache_life_time auth_cache_missed auth_cache_size ca_file
  captcha_cmd captcha_host captcha_limit captcha_url certfiles cluster_backend cluster_nodes define_macro domain_balancing
  ext_api_path_oauth fqdn host_config hosts hosts_alias install_contrib_modules listen log_burst_limit_count
  log_burst_limit_window_time log_modules_fully log_rotate_count log_rotate_size loglevel negotiation_timeout net_ticktime
  oauth_cache_life_time oauth_cache_missed oauth_cache_rest_failure_life_time oauth_cache_size oauth_db_type oauth_expire
  oauth_use_cache oom_killer oom_queue oom_watermark queue_dir redis_connect_timeout redis_db redis_password redis_pool_size
  redis_port redis_queue_type redis_server registration_timeout router_cache_life_time router_cache_missed router_cache_size
  router_db_type router_use_cache rpc_timeout s2s_max_retry_delay shaper sm_cache_life_time sm_cache_missed sm_cache_size
  sql_schema_multihost trusted_proxies update_sql_schema validate_stream version websocket_origin websocket_ping_interval
  websocket_timeout
`)

/** Top-level options that `host_config` may set too. */
export const hostOptionNames: ReadonlySet<string> = words(`
  access_rules acl allow_multiple_connections anonymous_protocol auth_external_user_exists_check auth_method auth_opts
  auth_password_format auth_password_types_hidden_in_sasl1 auth_scram_hash auth_stored_password_types auth_use_cache c2s_cafile
  c2s_ciphers c2s_dhfile c2s_protocol_options c2s_tls_compression cache_life_time cache_missed cache_size default_db default_ram_db
  define_keyword disable_sasl_mechanisms disable_sasl_scram_downgrade_protection ext_api_headers ext_api_http_pool_size ext_api_url
  extauth_pool_name extauth_pool_size extauth_program hide_sensitive_log_data include_config_file jwt_auth_only_rule jwt_jid_field
  jwt_key language ldap_backups ldap_base ldap_deref_aliases ldap_dn_filter ldap_encrypt ldap_filter ldap_password ldap_port
  ldap_rootdn ldap_servers ldap_tls_cacertfile ldap_tls_certfile ldap_tls_depth ldap_tls_verify ldap_uids max_fsm_queue modules
  oauth_access oauth_client_id_check outgoing_s2s_families outgoing_s2s_ipv4_address outgoing_s2s_ipv6_address outgoing_s2s_port
  outgoing_s2s_timeout pam_service pam_userinfotype pgsql_users_number_estimate queue_type replaced_connection_timeout
  resource_conflict rest_proxy rest_proxy_password rest_proxy_port rest_proxy_username s2s_access s2s_cafile s2s_ciphers s2s_dhfile
  s2s_dns_retries s2s_dns_timeout s2s_protocol_options s2s_queue_type s2s_timeout s2s_tls_compression s2s_use_starttls s2s_zlib
  shaper_rules sm_db_type sm_use_cache sql_connect_timeout sql_database sql_flags sql_keepalive_interval sql_odbc_driver
  sql_password sql_pool_size sql_port sql_prepared_statements sql_query_timeout sql_queue_type sql_server sql_ssl sql_ssl_cafile
  sql_ssl_certfile sql_ssl_verify sql_start_interval sql_type sql_username update_sql_schema_timeout use_cache
`)

/** Options of every listener. */
export const listenerCommonNames: ReadonlySet<string> = words(`transport ip accept_interval send_timeout backlog unix_socket use_proxy_protocol port module`)

/** Modules of listeners with their own options. */
export const listenerNames: ReadonlyMap<string, ReadonlySet<string>> = lists(`
  ejabberd_c2s: access shaper ciphers dhfile cafile protocol_options tls tls_compression starttls starttls_required allow_unencrypted_sasl2
    tls_verify zlib max_stanza_size max_stanza_elements max_fsm_queue pre_auth_max_stanza_size pre_auth_max_stanza_elements
  ejabberd_s2s_in: shaper ciphers dhfile cafile protocol_options tls tls_compression max_stanza_size max_stanza_elements max_fsm_queue
    pre_auth_max_stanza_size pre_auth_max_stanza_elements
  ejabberd_service: access shaper shaper_rule certfile ciphers dhfile cafile protocol_options tls tls_compression max_stanza_size max_fsm_queue
    password hosts check_from global_routes
  ejabberd_http: ciphers dhfile cafile protocol_options tls tls_compression allow_unencrypted_sasl2 request_handlers tag custom_headers
  ejabberd_stun: shaper use_turn turn_ipv4_address turn_ipv6_address auth_type auth_realm tls certfile turn_min_port turn_max_port
    turn_max_allocations turn_max_permissions turn_blacklist server_name
  ejabberd_sip: tls certfile
  mod_mqtt: max_fsm_queue max_payload_size tls tls_verify
  ejabberd_xmlrpc: 
  mod_proxy65_stream: 
`)

/** Modules with their options. */
export const moduleNames: ReadonlyMap<string, ReadonlySet<string>> = lists(`
  mod_adhoc: report_commands_node
  mod_adhoc_api: default_version
  mod_admin_extra: 
  mod_admin_update_sql: 
  mod_announce: access db_type use_cache cache_size cache_missed cache_life_time
  mod_antispam: access_spam cache_size rtbl_services spam_domains_file spam_dump_file spam_jids_file spam_urls_file whitelist_domains_file
  mod_auth_fast: db_type token_lifetime token_refresh_age
  mod_avatar: rate_limit convert
  mod_block_strangers: access drop log captcha allow_local_users allow_transports
  mod_blocking: 
  mod_bosh: json max_concat max_inactivity max_pause prebind ram_db_type queue_type use_cache cache_size cache_missed cache_life_time
  mod_caps: db_type use_cache cache_size cache_missed cache_life_time
  mod_carboncopy: 
  mod_client_state: queue_presence queue_chat_states queue_pep
  mod_configure: access
  mod_conversejs: bosh_service_url websocket_url default_domain conversejs_resources conversejs_options conversejs_script conversejs_plugins
    conversejs_css
  mod_delegation: namespaces
  mod_disco: extra_domains server_info name
  mod_fail2ban: access c2s_auth_ban_lifetime c2s_max_auth_failures
  mod_host_meta: bosh_service_url websocket_url
  mod_http_api: default_version
  mod_http_fileserver: accesslog content_types default_content_type custom_headers directory_indices must_authenticate_with docroot
  mod_http_upload: host hosts append_module_config name vcard access max_size secret_length jid_in_url file_mode dir_mode docroot put_url get_url
    service_url external_secret content_types custom_headers rm_on_unregister thumbnail
  mod_http_upload_quota: access_soft_quota access_hard_quota max_days
  mod_invites: access_create_account db_type landing_page max_invites site_name templates_dir token_expire_seconds webchat_url
  mod_jidprep: access
  mod_last: db_type use_cache cache_size cache_missed cache_life_time
  mod_legacy_auth: 
  mod_mam: assume_mam_usage default request_activates_archiving compress_xml clear_archive_on_room_destroy access_preferences
    user_mucsub_from_muc_archive archive_muc_as_mucsub db_type use_cache cache_size cache_missed cache_life_time
  mod_matrix_gw: matrix_domain host key_name key matrix_id_as_jid notary_servers leave_timeout
  mod_metrics: 127 ip port
  mod_mix: access_create host hosts name db_type
  mod_mix_pam: db_type use_cache cache_size cache_missed cache_life_time
  mod_mqtt: match_retained_limit max_topic_depth max_topic_aliases session_expiry max_queue access_subscribe access_publish db_type
    ram_db_type open_session queue_type use_cache cache_size cache_missed cache_life_time
  mod_mqtt_bridge: servers replication_user
  mod_muc: access access_admin access_create access_persistent access_mam access_register db_type ram_db_type history_size host hosts
    append_module_config name max_room_desc max_room_id max_room_name max_password max_captcha_whitelist max_rooms_discoitems
    max_user_conferences max_users max_users_admin_threshold max_users_presence min_message_interval min_presence_interval queue_type
    regexp_room_id room_shaper user_message_shaper user_presence_shaper preload_rooms hibernation_timeout vcard
    cleanup_affiliations_on_start default_room_options
  mod_muc_admin: subscribe_room_many_max_users
  mod_muc_log: 644 access_log cssfile file dirname dirtype file_format file_permissions outdir spam_prevention timezone url top_link
  mod_muc_rtbl: rtbl_server rtbl_node
  mod_multicast: access host hosts limits local remote vcard name
  mod_offline: db_type access_max_user_messages store_empty_body use_mam_for_storage bounce_groupchat store_groupchat use_cache cache_size
    cache_life_time
  mod_ping: ping_interval ping_ack_timeout send_pings timeout_action
  mod_pres_counter: count interval
  mod_privacy: db_type use_cache cache_size cache_missed cache_life_time
  mod_private: db_type use_cache cache_size cache_missed cache_life_time
  mod_privilege: roster both get set iq presence managed_entity message outgoing
  mod_providers: languages website organization since
  mod_proxy65: ram_db_type append_module_config access host hosts hostname ip port name vcard max_connections auth_type recbuf sndbuf shaper
    server_host
  mod_pubsub: access_createnode db_type host hosts append_module_config name vcard ignore_pep_from_offline last_item_cache max_items_node
    max_item_expire_node max_nodes_discoitems nodetree pep_mapping plugins max_subscriptions_node default_node_config
    force_node_config
  mod_pubsub_serverinfo: pubsub_host mod_pubsub
  mod_push: notify_on include_sender include_body db_type use_cache cache_size cache_missed cache_life_time
  mod_push_keepalive: resume_timeout wake_on_start wake_on_timeout
  mod_register: access access_from access_remove allow_modules captcha_protected ip_access password_strength registration_watchers redirect_url
    welcome_message
  mod_register_web: 
  mod_roster: access store_current_id versioning db_type use_cache cache_size cache_missed cache_life_time
  mod_s2s_bidi: 
  mod_s2s_dialback: access
  mod_scram_upgrade: offered_upgrades
  mod_service_log: loggers
  mod_shared_roster: db_type use_cache cache_size cache_missed cache_life_time
  mod_shared_roster_ldap: ldap_auth_check ldap_gfilter ldap_groupattr ldap_groupdesc ldap_memberattr ldap_memberattr_format ldap_memberattr_format_re
    ldap_rfilter ldap_ufilter ldap_userdesc ldap_useruid ldap_userjidattr ldap_backups ldap_base ldap_uids ldap_deref_aliases
    ldap_encrypt ldap_password ldap_port ldap_rootdn ldap_servers ldap_filter ldap_tls_certfile ldap_tls_cacertfile ldap_tls_depth
    ldap_tls_verify use_cache cache_size cache_missed cache_life_time
  mod_sic: 
  mod_sip: always_record_route flow_timeout_tcp flow_timeout_udp record_route routes via
  mod_stats: 
  mod_stream_mgmt: max_ack_queue resume_timeout max_resume_timeout ack_timeout cache_size cache_life_time resend_on_timeout queue_type
  mod_stun_disco: access credentials_lifetime offer_local_services secret services
  mod_time: 
  mod_vcard: allow_return_all host hosts append_module_config matches search name vcard db_type use_cache cache_size cache_missed
    cache_life_time
  mod_vcard_xupdate: use_cache cache_size cache_missed cache_life_time
  mod_version: show_os
`)

/** Names of request handlers that are not modules, with the server's own. */
export const handlerNames: ReadonlySet<string> = words('ejabberd_http_ws ejabberd_web_admin ejabberd_captcha ejabberd_oauth ejabberd_acme ejabberd_xmlrpc mod_matrix_gw_s2s tidings_status')

/** Top-level options of older versions that have lost their meaning. */
export const removedOptionNames: ReadonlySet<string> = words(`
  log_rotate_date log_rate_limit ca_path iqdisc commands ejabberdctl_access_commands commands_admin_access ldap_group_cache_size
  ldap_user_cache_size ldap_group_cache_validity ldap_user_cache_validity ldap_local_filter extauth_cache route_subdomains
  watchdog_admins odbc_type odbc_server odbc_port odbc_database odbc_username odbc_password odbc_pool_size odbc_keepalive_interval
  odbc_start_interval max_s2s_connections s2s_default_policy
`)

/** Top-level options by an older name. */
export const renamedOptions: ReadonlyMap<string, string> = new Map([
  ['deref_aliases', 'ldap_deref_aliases'], ['extauth_instances', 'extauth_pool_size'], ['new_sql_schema', 'sql_schema_multihost'],
  ['auth_password_types_hidden_in_scram1', 'auth_password_types_hidden_in_sasl1'],
  ['domain_certfile', 'certfiles'], ['c2s_certfile', 'certfiles'], ['s2s_certfile', 'certfiles'],
])

/** Modules by an older name. */
export const renamedModules: ReadonlyMap<string, string> = new Map([
  ['mod_http_bind', 'mod_bosh'], ['mod_vcard_ldap', 'mod_vcard'], ['mod_vcard_xupdate_odbc', 'mod_vcard_xupdate'],
])

/** Modules that older versions had, or had from elsewhere. */
export const removedModuleNames: ReadonlySet<string> = words('mod_echo mod_muc_occupantid mod_irc mod_pushoff mod_ip_blacklist mod_configure2 mod_xmlrpc mod_log_chat mod_rest')

/** Options of listeners that older versions had. */
export const removedListenerNames: ReadonlySet<string> = words('http_poll inet inet6 access_commands resend_on_timeout max_ack_queue resume_timeout ack_timeout stream_management supervisor')

/** Options of modules that older versions had. */
export const removedModuleOptionNames: ReadonlySet<string> = words('iqdisc admin_ip_access service_url db_type ram_db_type use_cache cache_size cache_missed cache_life_time')

function words(text: string): ReadonlySet<string> {
  return new Set(text.split(/\s+/).filter((word) => word !== ''))
}

function lists(text: string): ReadonlyMap<string, ReadonlySet<string>> {
  const result = new Map<string, ReadonlySet<string>>()
  for (const block of text.split(/\n(?=\s*\w+:)/)) {
    const [name, names] = block.split(':')
    if (name?.trim()) result.set(name.trim(), words(names ?? ''))
  }
  return result
}
